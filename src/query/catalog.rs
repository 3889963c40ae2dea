//! A pinned state as DataFusion's catalog: read-only, for one statement.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;
use parking_lot::RwLock;

use super::past::PastTables;
use super::postgres::{self, PgCatalog};
use super::role::Role;
use super::{CATALOG, Comments, PUBLIC, Pinned, SYSTEM};

/// The one catalog of a statement.
pub(super) struct PinnedCatalog {
    schemas: BTreeMap<String, Arc<PinnedSchema>>,
    views: BTreeMap<String, String>,
    keys: BTreeMap<String, Vec<String>>,
    comments: Option<Arc<Comments>>,
    past: Option<Arc<PastTables>>,
    /// Who reads; nobody in particular may read all.
    role: Option<Arc<Role>>,
    /// PostgreSQL's catalogs, if the statement asks for them; no list of schemas shows them.
    postgres: RwLock<Option<Arc<PgCatalog>>>,
}

impl fmt::Debug for PinnedCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedCatalog").field("schemas", &self.schemas).finish_non_exhaustive()
    }
}

impl PinnedCatalog {
    /// `past` reads the tables of the past that the statement names.
    pub(super) fn new(pinned: Pinned, past: Option<Arc<PastTables>>, role: Option<Arc<Role>>) -> Arc<Self> {
        let mut schemas: BTreeMap<String, Arc<PinnedSchema>> = pinned
            .schemas
            .into_iter()
            .map(|(name, tables)| {
                let role = role.clone();
                (name.clone(), Arc::new(PinnedSchema { name, role, tables: RwLock::new(tables) }))
            })
            .collect();
        for always in [PUBLIC, SYSTEM] {
            schemas.entry(always.to_owned()).or_default();
        }
        let Pinned { views, keys, comments, .. } = pinned;
        Arc::new(Self { schemas, views, keys, comments, past, role, postgres: RwLock::new(None) })
    }

    /// The tables of the past that the statement names.
    pub(super) fn past(&self) -> Option<&Arc<PastTables>> {
        self.past.as_ref()
    }

    /// Makes PostgreSQL's catalogs tables of this statement.
    pub(super) fn add_postgres(&self, catalog: Arc<PgCatalog>) {
        *self.postgres.write() = Some(catalog);
    }

    /// The SQL of a view.
    pub(super) fn view(&self, name: &str) -> Option<&String> {
        self.views.get(name)
    }

    /// What people should know of the columns of a table of schema `public`.
    pub(super) fn comments(&self, table: &str) -> HashMap<String, String> {
        self.comments.as_ref().map(|comments| comments(table)).unwrap_or_default()
    }

    /// The key columns of a table of schema `public`, if it has one row per key.
    pub(super) fn key(&self, table: &str) -> Option<&Vec<String>> {
        self.keys.get(table)
    }

    /// Schema names, sorted.
    pub(super) fn schema_names(&self) -> impl Iterator<Item = &String> {
        self.schemas.keys()
    }

    /// The tables of a schema, and those views that were planned: those that may be read.
    pub(super) fn tables(&self, schema: &str) -> Vec<(String, Arc<dyn TableProvider>)> {
        self.schemas.get(schema).map_or_else(Vec::new, |schema| {
            let tables = schema.tables.read();
            let readable = tables.iter().filter(|(name, _)| schema.may_read(name));
            readable.map(|(name, table)| (name.clone(), Arc::clone(table))).collect()
        })
    }

    /// A view as whoever reads sees it.
    pub(super) fn restricted(&self, name: &str, view: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        match &self.role {
            Some(role) => role.restricted(name, view),
            None => view,
        }
    }

    /// Whether a table or view is there, and must not be read.
    pub(super) fn is_denied(&self, schema: &str, name: &str) -> bool {
        let Some(role) = &self.role else { return false };
        let is_there = self.table(schema, name).is_some() || schema == PUBLIC && self.views.contains_key(name);
        is_there && !role.may_read(schema, name)
    }

    /// A table or planned view.
    pub(super) fn table(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        self.schemas.get(schema)?.tables.read().get(name).cloned()
    }

    /// Names of all views that may be read.
    pub(super) fn view_names(&self) -> impl Iterator<Item = &String> {
        self.views.keys().filter(|name| self.role.as_ref().is_none_or(|role| role.may_read(PUBLIC, name)))
    }

    /// The SQL of a view, unless a table of that name hides it or it is planned already.
    pub(super) fn unplanned_view(&self, schema: &str, name: &str) -> Option<&str> {
        let sql = (schema == PUBLIC).then(|| self.views.get(name)).flatten()?;
        self.table(schema, name).is_none().then_some(sql)
    }

    /// Makes a planned view a table of this statement.
    pub(super) fn add_view(&self, name: String, view: Arc<dyn TableProvider>) {
        if let Some(public) = self.schemas.get(PUBLIC) {
            public.tables.write().entry(name).or_insert(view);
        }
    }
}

/// What DataFusion asks for catalogs by name.
#[derive(Debug)]
pub(super) struct PinnedList(pub(super) Arc<PinnedCatalog>);

impl CatalogProviderList for PinnedList {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::clone(&self.0) as _)
    }
}

impl CatalogProvider for PinnedCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == postgres::SCHEMA
            && let Some(catalog) = &*self.postgres.read()
        {
            return Some(Arc::new(PostgresSchema(Arc::clone(catalog))));
        }
        self.schemas.get(name).map(|schema| Arc::clone(schema) as _)
    }
}

#[derive(Debug, Default)]
struct PinnedSchema {
    name: String,
    role: Option<Arc<Role>>,
    tables: RwLock<BTreeMap<String, Arc<dyn TableProvider>>>,
}

impl PinnedSchema {
    fn may_read(&self, name: &str) -> bool {
        self.role.as_ref().is_none_or(|role| role.may_read(&self.name, name))
    }
}

#[async_trait]
impl SchemaProvider for PinnedSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.read().keys().filter(|name| self.may_read(name)).cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.tables.read().get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.read().contains_key(name)
    }
}

/// PostgreSQL's catalogs, each made when it is asked for.
#[derive(Debug)]
struct PostgresSchema(Arc<PgCatalog>);

#[async_trait]
impl SchemaProvider for PostgresSchema {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        postgres::table(&self.0, name).transpose()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table(name).is_some()
    }
}
