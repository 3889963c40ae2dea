//! `_millpond/paused.json`: the tables that are not fed, because somebody said so. Written by the lake's one writer.

use std::collections::BTreeSet;

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::{OWN, Stores};
use crate::error::{Error, Kind, Result};

/// The form is frozen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Paused {
    tables: BTreeSet<String>,
}

fn path() -> Path {
    Path::from(OWN).join("paused.json")
}

/// The tables that are not fed.
pub async fn paused(stores: &Stores) -> Result<BTreeSet<String>> {
    let read = async { stores.data().get(&path()).await?.bytes().await };
    match read.await {
        Ok(bytes) => serde_json::from_slice::<Paused>(&bytes).map(|paused| paused.tables).map_err(|error| {
            let message = format!("`{}` of the lake at {} cannot be read", path(), stores.location());
            Error::new(Kind::Refused, message).hint("delete it: then all tables are fed").because(error)
        }),
        Err(StoreError::NotFound { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(stores.explain(&format!("read `{}`", path()), error)),
    }
}

/// These are not fed from now on.
pub async fn pause(stores: &Stores, tables: &BTreeSet<String>) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(&Paused { tables: tables.clone() })
        .map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))?;
    let written = stores.data().put(&path(), bytes.into()).await;
    written.map(drop).map_err(|error| stores.explain(&format!("write `{}`", path()), error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::lake::store::testing::stores;

    #[tokio::test]
    async fn what_is_paused_is_read_back_in_the_form_that_it_has_for_ever() {
        let stores = stores(Arc::new(InMemory::new()));
        assert!(paused(&stores).await.unwrap().is_empty());
        let tables = BTreeSet::from(["telemetry".to_owned(), "trips".to_owned()]);
        pause(&stores, &tables).await.unwrap();
        assert_eq!(paused(&stores).await.unwrap(), tables);
        stores.data().put(&path(), r#"{"tables":["a"],"more":1}"#.into()).await.unwrap();
        assert_eq!(paused(&stores).await.unwrap(), BTreeSet::from(["a".to_owned()]));
        stores.data().put(&path(), "half".into()).await.unwrap();
        assert_eq!(paused(&stores).await.unwrap_err().kind(), Kind::Refused);
    }
}
