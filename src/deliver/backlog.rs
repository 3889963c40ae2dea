//! One sink's undelivered messages in the lake: `_millpond/deliver/<sink>/<number>.json`, one object per message.
//!
//! The objects follow the queue: a message that has waited too long is written down, one that left the queue is
//! deleted. Each step may fail and is taken again by the next look, so nothing here needs an order or a retry.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _};
use tracing::warn;

use super::message::Message;

/// Folder of all sinks' backlogs.
const FOLDER: &str = "_millpond/deliver";
/// Requests under way at once.
const REQUESTS: usize = 8;

/// The backlog of one sink.
pub(super) struct Backlog {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    /// Numbers of the objects that are there, or may be.
    written: BTreeSet<u64>,
}

impl Backlog {
    pub fn new(store: Arc<dyn ObjectStore>, sink: &str) -> Self {
        Self { store, folder: Path::from(FOLDER).join(sink), written: BTreeSet::new() }
    }

    /// Reads what earlier processes left, oldest first. What cannot be read stays where it is.
    pub async fn load(&mut self) -> Result<Vec<(u64, Message)>, StoreError> {
        let listed: Vec<_> = self.store.list(Some(&self.folder)).try_collect().await?;
        let numbers =
            listed.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse().ok());
        let numbers: BTreeSet<u64> = numbers.collect();
        let this = &*self;
        let read = stream::iter(numbers).map(|number| async move {
            let path = this.path(number);
            let bytes = async { this.store.get(&path).await?.bytes().await };
            match bytes.await {
                Ok(bytes) => Ok(match Message::from_json(&bytes) {
                    Ok(message) => Some((number, message)),
                    Err(error) => {
                        warn!(object = %path, error = %error, "a message of the backlog cannot be read and stays there");
                        None
                    }
                }),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let messages: Vec<_> = read.buffered(REQUESTS).try_collect().await?;
        let messages: Vec<_> = messages.into_iter().flatten().collect();
        self.written.extend(messages.iter().map(|(number, _)| *number));
        Ok(messages)
    }

    /// Numbers of messages written down that `waits` no longer.
    pub fn outdated(&self, waits: impl Fn(u64) -> bool) -> Vec<u64> {
        self.written.iter().copied().filter(|number| !waits(*number)).collect()
    }

    /// True if the message is written down.
    pub fn holds(&self, number: u64) -> bool {
        self.written.contains(&number)
    }

    /// Messages written down.
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Deletes messages that left the queue, then writes down others.
    pub async fn follow(&mut self, gone: Vec<u64>, waiting: Vec<(u64, Arc<Message>)>) -> Result<(), StoreError> {
        let this = &*self;
        let delete = stream::iter(gone).map(|number| async move {
            match this.store.delete(&this.path(number)).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => Ok(number),
                Err(error) => Err(error),
            }
        });
        let mut deleted: Vec<Result<u64, StoreError>> = delete.buffer_unordered(REQUESTS).collect().await;
        let write = stream::iter(waiting).map(|(number, message)| async move {
            let bytes = message.to_json().map_err(|error| StoreError::Generic { store: "", source: error.into() })?;
            this.store.put(&this.path(number), bytes.into()).await.map(|_| number)
        });
        let write = write.buffer_unordered(REQUESTS);
        // A store that refuses one of them is not asked to take thousands.
        let written: Vec<Result<u64, StoreError>> = take_through_error(write).collect().await;
        for number in deleted.iter().flatten() {
            self.written.remove(number);
        }
        self.written.extend(written.iter().flatten());
        deleted.extend(written);
        deleted.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    fn path(&self, number: u64) -> Path {
        // Twenty digits, so that names sort like numbers.
        self.folder.clone().join(format!("{number:020}.json"))
    }
}

/// Sinks that have a backlog in the lake.
pub(super) async fn sinks(store: &Arc<dyn ObjectStore>) -> Result<Vec<String>, StoreError> {
    let listed = store.list_with_delimiter(Some(&Path::from(FOLDER))).await;
    let listed = match listed {
        Err(StoreError::NotFound { .. }) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
}

/// Items up to the first error, and that.
fn take_through_error<T, E>(
    items: impl stream::Stream<Item = Result<T, E>>,
) -> impl stream::Stream<Item = Result<T, E>> {
    items.scan(false, |failed, item| {
        let before = std::mem::replace(failed, *failed || item.is_err());
        std::future::ready((!before).then_some(item))
    })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::super::message::MessageKind;
    use super::super::message::tests::message;
    use super::*;

    fn stored(id: &str) -> Arc<Message> {
        Arc::new(message(id, MessageKind::News))
    }

    #[tokio::test]
    async fn what_is_written_comes_back_in_order_and_only_to_its_sink() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        assert_eq!(sinks(&store).await.unwrap(), Vec::<String>::new());
        let mut ops = Backlog::new(Arc::clone(&store), "ops");
        ops.follow(Vec::new(), vec![(10, stored("b")), (9, stored("a")), (1_795_348_800_000_000, stored("c"))])
            .await
            .unwrap();
        Backlog::new(Arc::clone(&store), "other").follow(Vec::new(), vec![(1, stored("x"))]).await.unwrap();
        store.put(&"_millpond/deliver/ops/00000000000000000011.json".into(), "{".into()).await.unwrap();
        store.put(&"_millpond/deliver/ops/note.txt".into(), "a person was here".into()).await.unwrap();

        let mut again = Backlog::new(Arc::clone(&store), "ops");
        let loaded = again.load().await.unwrap();
        let seen: Vec<_> = loaded.iter().map(|(number, message)| (*number, message.id.as_str())).collect();
        assert_eq!(seen, [(9, "a"), (10, "b"), (1_795_348_800_000_000, "c")]);
        assert_eq!(sinks(&store).await.unwrap(), ["ops", "other"]);

        assert_eq!(again.outdated(|number| number == 10), [9, 1_795_348_800_000_000]);
        again.follow(vec![9, 1_795_348_800_000_000, 12], Vec::new()).await.unwrap();
        assert!(again.holds(10) && again.len() == 1);
        let left: Vec<_> = store.list(Some(&Path::from("_millpond/deliver/ops"))).try_collect().await.unwrap();
        assert_eq!(left.len(), 3, "the message, what cannot be read, and the note: {left:?}");
    }
}
