//! A lake that no server writes to: what commands find there by themselves, and what they do to it as its one writer.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::RwLock;

use super::catalog::{EngineCatalog, Fed};
use super::feed::DEAD_LETTERS;
use super::latest::{self, Keeper};
use super::stream_queries;
use super::streams::{ALERTS, Streams};
use super::table_queries::TableQueries;
use super::{
    INGEST_PERCENT, LATEST_PERCENT, Variables, cluster, configured, location, open_table, queries, s3_options, service,
    share, tables_of, unreadable, versions, view_of, views,
};
use crate::config::{Problems, Project};
use crate::decode::dead_letters_schema;
use crate::error::{Error, Kind, Result};
use crate::lake::{Claim, DeadLetters, Format, Holder, Lake, LiveView, PUBLIC, SYSTEM, Stores, probe};
use crate::query::Service;
use crate::schema::Contract;
use crate::task::{Budget, Shutdown};

/// What is wrong with the project's queries, as far as can be known without a server, and how those that are right run:
/// see [`queries::check`].
pub async fn check_queries(project: &Project, variables: &Variables) -> Result<(Problems, Vec<String>)> {
    let lake = match project.config.lake.url.scheme() {
        "file" => existing(project, variables).await.ok(),
        // A bucket may be far away: `check` asks nobody.
        _ => None,
    };
    let catalog = match committed(project, lake.as_ref()).await {
        Ok(catalog) => catalog,
        Err(_) => committed(project, None).await?,
    };
    let service = service(lake.as_ref(), &catalog, &project.config)?;
    let s3 = s3_options(&project.config, variables);
    Keeper { catalog: Arc::clone(&catalog), service: service.clone(), s3, writing: None }.shape().await?;
    Ok(queries::check(project, &service, &catalog).await)
}

/// A query service over a lake without a writer: committed rows only, nothing is created or changed.
pub fn read_only<'a>(project: &'a Project, variables: &'a Variables) -> BoxFuture<'a, Result<Service>> {
    Box::pin(async move {
        let lake = existing(project, variables).await?;
        let catalog = committed(project, Some(&lake)).await?;
        let service = service(Some(&lake), &catalog, &project.config)?;
        let s3 = s3_options(&project.config, variables);
        Keeper { catalog, service: service.clone(), s3, writing: None }.load().await?;
        Ok(service)
    })
}

/// Does `work` on the project's lake, which must be there, as its one writer: for commands that find no server.
pub(super) async fn as_writer<T>(
    project: &Project,
    variables: &Variables,
    work: impl AsyncFnOnce(&Lake, &Shutdown) -> Result<T>,
) -> Result<T> {
    let lake = existing(project, variables).await?;
    probe(lake.stores()).await?;
    let (stop_claim, abort) = (Shutdown::new(), Shutdown::new());
    let claim = Claim::take(lake.stores(), Holder::here(None, chrono::Utc::now()), &stop_claim).await?;
    let done = tokio::select! {
        done = work(&lake, &abort) => done,
        error = claim.lost() => Err(error),
    };
    abort.cancel();
    claim.release().await;
    stop_claim.cancel();
    done
}

/// The project's lake, which must be there.
pub(super) async fn existing(project: &Project, variables: &Variables) -> Result<Lake> {
    let stores = Stores::open(&location(project)?, &s3_options(&project.config, variables)).await?;
    if Format::read(&stores).await?.is_none() {
        return Err(Error::new(Kind::NotFound, format!("there is no lake at {}", stores.location()))
            .hint("start `millpond serve` once to create it"));
    }
    Ok(configured(stores, &project.config))
}

/// The tables of `lake`, and those that the project declares and nothing has fed yet, as a server would show them.
pub(super) async fn committed(project: &Project, lake: Option<&Lake>) -> Result<Arc<EngineCatalog>> {
    let (mut tables, dead_letters) = (BTreeMap::new(), OnceLock::new());
    let versions = match lake {
        Some(lake) => versions(lake).await?,
        None => Arc::default(),
    };
    if let Some(lake) = lake {
        for name in lake.table_names(PUBLIC).await.map_err(unreadable)? {
            if let Some(table) = open_table(lake, PUBLIC, &name).await? {
                let schema = table.arrow_schema().map_err(unreadable)?;
                tables.insert(name.clone(), Arc::new(LiveView::new(view_of(&name, Some(&table), schema, &versions)?)));
            }
        }
        if let Some(table) = open_table(lake, SYSTEM, DEAD_LETTERS).await? {
            let _ = dead_letters.set(Arc::new(DeadLetters::new(table, dead_letters_schema()).map_err(unreadable)?));
        }
    }
    let table_queries = TableQueries::default();
    table_queries.take_over(project.made.clone());
    let streams = Streams::default();
    if let Some(lake) = lake
        && let Some(table) = open_table(lake, SYSTEM, ALERTS).await?
    {
        streams.show(table.snapshot().map_err(unreadable)?);
    }
    for contract in &project.tables {
        for (name, declared) in tables_of(contract) {
            let view = view_of(&name, None, declared, &versions)?;
            tables.entry(name).or_insert_with(|| Arc::new(LiveView::new(view)));
        }
    }
    let contracts: Vec<Arc<Contract>> = project.tables.iter().cloned().map(Arc::new).collect();
    let (all, latest) = stream_queries::kept(&project.streams, contracts.clone(), project.latest.clone());
    let kept = latest::kept(&all, &latest, &project.references, &latest::KeptTables::default());
    Ok(Arc::new(EngineCatalog {
        kept: ArcSwap::from_pointee(kept),
        latest_bytes: share(&project.config, LATEST_PERCENT),
        ingest_budget: Budget::new(share(&project.config, INGEST_PERCENT)),
        views: RwLock::new(views(project)),
        lake: lake.cloned(),
        table_queries: Arc::new(table_queries),
        imported: ArcSwap::from_pointee(project.imported.clone()),
        versions,
        dead_letters,
        streams: Arc::new(streams),
        brokers: cluster(&project.config, None).brokers,
        ..EngineCatalog::of(Fed { tables, contracts, ..Fed::default() })
    }))
}
