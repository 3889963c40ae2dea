//! A connection's session: its options, and the way from text to something that can run.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::logical_expr::{LogicalPlan, TableScan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as Ast;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::activity::{Connected, Entry};
use super::admission::Turn;
use super::allow::{self, Ask};
use super::catalog::{PinnedCatalog, PinnedList};
use super::continuous::{self, Continuous};
use super::past::{self, AtTime, AtVersion};
use super::postgres::{self, PgCatalog};
use super::result_cache::Asked;
use super::role::Role;
use super::rows::Most;
use super::service::{self, Service};
use super::settings::Settings;
use super::statement::{Query, Statement};
use super::threads::Threads;
use super::{CATALOG, NewRows, PUBLIC, SYSTEM, error, memory, parse, rows, windows, wire};
use crate::error::{Error, Kind, Result};
use crate::latest::Rows;

/// What a table of schema `public` is to clients.
const TABLE: &str = "TABLE";
const INFORMATION_SCHEMA: &str = "information_schema";
/// A statement waits no longer for a record, whatever its time-out is.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often it looks.
const LOOK: std::time::Duration = std::time::Duration::from_millis(2);

/// A session. Clones share their options.
#[derive(Clone)]
pub struct Session {
    service: Service,
    /// Whose it is; nobody's if the process itself asks.
    client: Option<Arc<Connected>>,
    /// What it may read; all if there is no role.
    role: Option<Arc<Role>>,
    /// It speaks PostgreSQL's SQL.
    postgres: Option<Arc<postgres::Connection>>,
    now: Arc<Mutex<Now>>,
}

/// The options in force, and the DataFusion state that follows from them.
struct Now {
    settings: Settings,
    state: Arc<SessionState>,
}

/// One table or view, as metadata of clients lists it.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// Its schema's name.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `TABLE`, `VIEW` or `SYSTEM TABLE`.
    pub kind: &'static str,
    /// Its columns in wire types.
    pub columns: SchemaRef,
}

/// A verified plan with everything it needs to run on the tables it saw.
pub(super) struct Planned {
    pub(super) plan: LogicalPlan,
    pub(super) state: SessionState,
    /// What people should know of the columns of its rows, by position.
    pub(super) comments: Vec<Option<String>>,
    /// It asks of its own session, of nobody else's.
    pub(super) is_own: bool,
}

impl Session {
    pub(super) fn new(service: Service) -> Self {
        let settings = service.defaults().clone();
        let state = Arc::new(service.state().clone());
        Self { service, client: None, role: None, postgres: None, now: Arc::new(Mutex::new(Now { settings, state })) }
    }

    /// The same session as that of `user`, who came in by `door`.
    #[must_use]
    pub fn of(self, user: &str, door: &'static str) -> Self {
        let client = Some(Arc::new(self.service.activity().connect(user, door)));
        Self { client, ..self }
    }

    /// The same session as that of somebody who has `role`.
    #[must_use]
    pub fn in_role(self, role: Arc<Role>) -> Self {
        if let Some(bytes) = role.memory_bytes() {
            let mut now = self.now.lock();
            let mut state = SessionState::clone(&now.state);
            fit(&mut state, bytes);
            now.state = Arc::new(state);
        }
        Self { role: Some(role), ..self }
    }

    /// Lists a statement, and waits until there is room for it among those of its role and all that clients run, unless it
    /// is `light`.
    pub(super) async fn begin(&self, sql: &str, light: bool, deadline: rows::Deadline) -> Result<Entry> {
        let client = self.client.as_ref().map(|connected| Arc::clone(connected.client()));
        let turn = match client {
            Some(_) if !light => {
                let of_role = self.role.as_ref().and_then(|role| role.room()).cloned();
                Turn::new(of_role, Some(Arc::clone(self.service.room())))
            }
            _ => Turn::default(),
        };
        let mut entry = self.service.activity().begin(sql, client, turn);
        rows::until(deadline, entry.take_turn()).await??;
        Ok(entry)
    }

    /// Where a plan of its runs: as `state` says, with memory and disk space of its own.
    pub(super) fn task(&self, state: &SessionState, plan: &dyn ExecutionPlan) -> Arc<TaskContext> {
        let role = self.role.as_ref();
        let (memory, spill) = (role.and_then(|role| role.memory_bytes()), role.and_then(|role| role.spill_bytes()));
        let runtime = self.service.runtime_of_query(memory::sorts(plan), memory, spill);
        Arc::new(TaskContext::from(state).with_runtime(runtime))
    }

    /// What its role lets one statement send.
    pub(super) fn most(&self) -> Most {
        self.role.as_ref().map(|role| role.most()).unwrap_or_default()
    }

    /// What an optimized plan of a text of so many bytes asks, if its result is known or can be kept. `state` is what it was
    /// planned with.
    pub(super) fn ask_cache(&self, plan: &LogicalPlan, state: &SessionState, bytes: usize) -> Option<Asked> {
        self.client.as_ref()?;
        if !self.now.lock().settings.result_cache {
            return None;
        }
        self.service.result_cache().ask(plan, state, bytes, self.role.as_ref())
    }

    /// The same session as one that speaks PostgreSQL's SQL, over the connection of this number.
    #[must_use]
    pub fn speaking_postgres(self, process: u32) -> Self {
        if let Some(connected) = &self.client {
            connected.client().is_process(process);
        }
        Self { postgres: Some(Arc::new(postgres::Connection::new(process))), ..self }
    }

    /// Says which options are in force, for those who ask in PostgreSQL's SQL.
    pub fn tell_settings(&self, settings: Vec<(String, String)>) {
        if let Some(connection) = &self.postgres {
            connection.tell(settings);
        }
    }

    /// Puts a statement into words that can be planned.
    pub(super) fn rewrite(&self, statement: &mut Ast) {
        if self.role.is_some() {
            // It would show statistics of files, those of rows that are held back too.
            allow::not_verbose(statement);
        }
        parse::fold_table_functions(statement);
        let Some(connection) = &self.postgres else { return parse::name_twins(statement) };
        postgres::rewrite(statement);
        let path = postgres::search_path(&connection.setting("search_path"));
        if let Some(first) = path.iter().find(|schema| [PUBLIC, SYSTEM].contains(&schema.as_str()))
            && first == SYSTEM
        {
            let catalog = self.service.pin(self.role.as_ref());
            parse::qualify(statement, SYSTEM, &|name| catalog.table(SYSTEM, name).is_some());
        }
    }

    /// What is known of the types of parameters beside what the plan tells: what the client declared, what they are cast
    /// to, and for who speaks PostgreSQL's SQL, that what nobody knows is a text.
    pub(super) fn declared(
        &self,
        statement: &Ast,
        mut declared: Vec<Option<DataType>>,
        count: usize,
    ) -> Vec<Option<DataType>> {
        declared.resize(count, None);
        if self.postgres.is_some() {
            for (at, cast) in postgres::casts(statement) {
                if let Some(known @ None) = declared.get_mut(at) {
                    *known = postgres::parameter_type(cast);
                }
            }
            declared.iter_mut().filter(|known| known.is_none()).for_each(|known| *known = Some(DataType::Utf8));
        }
        declared
    }

    /// Whether it is of the same user in the same role as another.
    pub fn is_like(&self, other: &Self) -> bool {
        let same_role = match (&self.role, &other.role) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        self.user() == other.user() && same_role
    }

    /// Who asks.
    pub fn user(&self) -> &str {
        self.client.as_ref().map_or(CATALOG, |connected| connected.client().user())
    }

    /// Parses, plans and verifies one statement, for running it any number of times. Each run sees the rows of its
    /// own time.
    pub fn prepare<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Statement>> {
        self.prepare_typed(sql, Vec::new())
    }

    /// The same with the types that the client says its parameters have: they count where the text does not tell.
    pub fn prepare_typed<'a>(
        &'a self,
        sql: &'a str,
        declared: Vec<Option<DataType>>,
    ) -> BoxFuture<'a, Result<Statement>> {
        let (session, sql) = (self.clone(), sql.to_owned());
        self.service.threads().run(async move { Statement::prepare(session, &sql, declared).await })
    }

    /// One statement without parameters, planned on the tables as they are now.
    pub fn query<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Query>> {
        Box::pin(async move {
            let parsed = parse::parse(sql)?;
            let parameters = parsed.parameters;
            let mut ask = allow::sort(parsed)?;
            if let Ask::Rows(statement) = &mut ask {
                self.rewrite(statement);
            }
            if parameters > 0 {
                let text = format!("the statement has {parameters} parameters and no values for them");
                return Err(Error::new(Kind::Query, text).hint("prepare it and bind values"));
            }
            self.bind(sql.into(), ask, Vec::new()).await
        })
    }

    /// Changes a session option (`timezone`, `statement_timeout`).
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.change(|settings, _| settings.set(name, value))
    }

    /// Takes a session option back to the project's.
    pub fn reset(&self, name: &str) -> Result<()> {
        self.change(|settings, defaults| settings.reset(name, defaults))
    }

    /// Name and value of one session option, or of all.
    pub fn show(&self, name: Option<&str>) -> Result<Vec<(&'static str, String)>> {
        self.now.lock().settings.show(name)
    }

    /// Schema names, `information_schema` among them.
    pub fn schemas(&self) -> Vec<String> {
        let mut names: Vec<String> = self.service.pin(self.role.as_ref()).schema_names().cloned().collect();
        names.push(INFORMATION_SCHEMA.to_owned());
        names
    }

    /// All tables and views, sorted by schema and name. A view that cannot be planned has no columns.
    pub fn tables<'a>(&'a self) -> BoxFuture<'a, Result<Vec<TableInfo>>> {
        let session = self.clone();
        self.service.threads().run(async move {
            let (catalog, state) = session.pinned();
            session.list_tables(&catalog, &state).await
        })
    }

    /// The key columns of a table of schema `public`; of one that does not have one row per key, none.
    pub fn primary_key(&self, table: &str) -> Vec<String> {
        let catalog = self.pinned().0;
        if catalog.is_denied(PUBLIC, table) {
            return Vec::new();
        }
        catalog.key(table).cloned().unwrap_or_default()
    }

    /// What is wrong with the view `name`, as a statement that reads it would be told. Where not all columns are
    /// `known` yet, only its syntax and the tables it names are judged.
    pub fn check_view<'a>(&'a self, name: &'a str, known: bool) -> BoxFuture<'a, Result<()>> {
        let (session, name) = (self.clone(), name.to_owned());
        self.service.threads().run(async move {
            let (catalog, state) = session.pinned();
            check_view(&catalog, &state, &name, known).await
        })
    }

    /// Plans a SELECT that is to run over every batch of new rows of its first table. `over` is SQL that is told of each
    /// of those rows, too.
    pub fn continuous<'a>(&'a self, sql: &'a str, over: Option<&'a str>) -> BoxFuture<'a, Result<Continuous>> {
        let (session, sql, over) = (self.clone(), sql.to_owned(), over.map(str::to_owned));
        self.service.threads().run(async move {
            let statement = continuous::with_column(select(&sql, "a continuous query")?, over.as_deref())?;
            session.plan_continuous(&sql, statement, over.is_some()).await
        })
    }

    pub(super) async fn plan_continuous(&self, sql: &str, statement: Ast, has_more: bool) -> Result<Continuous> {
        let (catalog, state) = self.pinned();
        let plan = plan(&catalog, &state, sql, statement, &mut Vec::new()).await?;
        let plan = windows::expand(plan, false).map_err(|cause| error::from_datafusion(cause, sql))?;
        // What a session is the stream knows itself.
        let mut analyzer = state.analyzer().clone();
        analyzer.rules.retain(|rule| rule.name() != windows::RULE);
        let settled = analyzer.execute_and_check(plan, state.config_options(), |_, _| {});
        let settled = settled.map_err(|cause| error::from_datafusion(cause, sql))?;
        Continuous::of(&settled, &state, has_more)
    }

    /// The rows that come to a table from now on.
    pub(super) async fn follow(&self, table: &str) -> Result<NewRows> {
        if self.role.as_ref().is_some_and(|role| !role.may_read_all_of(table)) {
            return Err(Role::denied(table));
        }
        self.service.follow(table).await?.ok_or_else(|| {
            let hint = "the first table of FROM is the stream: an events table, a __changes table, a mirror, a latest \
                        table or a stream query";
            Error::new(Kind::Query, format!("{table} is no stream")).hint(hint)
        })
    }

    /// Makes PostgreSQL's catalogs and functions known to a statement.
    async fn add_postgres(
        &self,
        connection: &postgres::Connection,
        catalog: &Arc<PinnedCatalog>,
        state: &mut SessionState,
    ) -> Result<()> {
        let tables = self.list_tables(catalog, state).await?.into_iter();
        let told = tables.filter(|table| table.schema != INFORMATION_SCHEMA).map(|table| {
            let TableInfo { schema, name, kind, columns } = table;
            let key = if schema == PUBLIC { catalog.key(&name).cloned() } else { None };
            let definition = if schema == PUBLIC { catalog.view(&name).cloned() } else { None };
            let rows = catalog.table(&schema, &name).and_then(|table| table.statistics());
            let rows = rows.and_then(|known| known.num_rows.get_value().copied());
            postgres::Told {
                schema,
                name,
                is_view: kind == "VIEW",
                columns,
                key: key.unwrap_or_default(),
                definition,
                rows,
            }
        });
        let known = PgCatalog::new(told.collect(), postgres::own_schemas(), self.user(), connection.settings());
        let known = Arc::new(known.among(self.service.activity()));
        for function in connection.functions(&known, self.user()) {
            state.register_udf(function).map_err(|cause| error::from_datafusion(cause, ""))?;
        }
        catalog.add_postgres(known);
        Ok(())
    }

    fn list_tables<'a>(
        &'a self,
        catalog: &'a Arc<PinnedCatalog>,
        state: &'a SessionState,
    ) -> BoxFuture<'a, Result<Vec<TableInfo>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let mut add = |schema: &str, name: String, kind, columns: &Schema, inside: Option<LogicalPlan>| {
                let mut own = if schema == PUBLIC { catalog.comments(&name) } else { HashMap::new() };
                // A view passes on what is known of the columns that it passes on.
                let passed = inside.map(|plan| comments(&plan, catalog)).unwrap_or_default();
                let mut passed = passed.into_iter().chain(std::iter::repeat(None));
                let fields = columns.fields().iter();
                let comments = fields.map(|field| {
                    let passed = passed.next().flatten();
                    own.remove(field.name()).or(passed)
                });
                let columns = wire::with_comments(&wire::schema(columns), comments);
                found.push(TableInfo { schema: schema.to_owned(), name, kind, columns });
            };
            for name in catalog.view_names() {
                if plan_view(catalog, state, name, &mut Vec::new()).await.is_err() {
                    add(PUBLIC, name.clone(), "VIEW", &Schema::empty(), None);
                }
            }
            for schema in catalog.schema_names() {
                for (name, table) in catalog.tables(schema) {
                    let kind = match table.table_type() {
                        TableType::View => "VIEW",
                        _ if schema == SYSTEM => "SYSTEM TABLE",
                        _ => TABLE,
                    };
                    let inside = table.get_logical_plan().map(std::borrow::Cow::into_owned);
                    add(schema, name, kind, &table.schema(), inside);
                }
            }
            let own = state
                .schema_for_ref(TableReference::partial(INFORMATION_SCHEMA, "tables"))
                .map_err(|e| error::from_datafusion(e, ""))?;
            for name in own.table_names() {
                if let Ok(Some(table)) = own.table(&name).await {
                    add(INFORMATION_SCHEMA, name, "SYSTEM TABLE", &table.schema(), None);
                }
            }
            found.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
            Ok(found)
        })
    }

    pub(super) fn bind(&self, sql: Arc<str>, ask: Ask, values: Vec<ScalarValue>) -> BoxFuture<'_, Result<Query>> {
        let session = self.clone();
        self.service.threads().run(async move { Query::plan(&session, &sql, ask, values).await })
    }

    pub(super) fn threads(&self) -> &Threads {
        self.service.threads()
    }

    /// How long its client may take no rows.
    pub(super) fn patience(&self) -> std::time::Duration {
        if self.postgres.is_some() { rows::PAGED } else { rows::STALLED }
    }

    pub(super) fn statement_timeout(&self) -> Option<std::time::Duration> {
        let own = self.now.lock().settings.statement_timeout;
        let limit = self.role.as_ref().and_then(|role| role.statement_timeout());
        own.map_or(limit, |own| Some(limit.map_or(own, |limit| own.min(limit))))
    }

    /// Plans on tables pinned now, and verifies that the plan only reads.
    pub(super) fn plan<'a>(&'a self, sql: &'a str, statement: Ast) -> BoxFuture<'a, Result<Planned>> {
        Box::pin(async move {
            self.wait().await?;
            let (catalog, mut state) = self.pinned();
            let own = self.postgres.as_ref().filter(|_| postgres::asks(&statement));
            if let Some(connection) = own {
                self.add_postgres(connection, &catalog, &mut state).await?;
            }
            let plan = plan(&catalog, &state, sql, statement, &mut Vec::new()).await?;
            let comments = comments(&plan, &catalog);
            Ok(Planned { plan, state, comments, is_own: own.is_some() })
        })
    }

    /// The options in force: others as soon as one changes.
    pub(super) fn options(&self) -> Arc<SessionState> {
        Arc::clone(&self.now.lock().state)
    }

    /// The rows of a table of schema `public` that has one row per key.
    pub(super) fn keyed(&self, table: &str) -> Option<Arc<dyn Rows>> {
        if self.role.as_ref().is_some_and(|role| !role.may_read_all_of(table)) {
            return None;
        }
        self.service.keyed(table)
    }

    /// Waits for the record that the session wants to see.
    pub(super) async fn wait(&self) -> Result<()> {
        let Settings { wait_for, statement_timeout, .. } = self.now.lock().settings.clone();
        let Some(wait_for) = wait_for else { return Ok(()) };
        let patience = statement_timeout.map_or(LONGEST_WAIT, |timeout| timeout.min(LONGEST_WAIT));
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.service.is_seen(&wait_for.topic, wait_for.partition, wait_for.offset) {
                Some(true) => return Ok(()),
                Some(false) if tokio::time::Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Some(false) => {
                    let message = format!("wait_for: {wait_for} was not seen within {} ms", patience.as_millis());
                    let hint = "system.ingest shows how far tables are; SET wait_for = '' waits no more";
                    return Err(Error::new(Kind::Deadline, message).hint(hint));
                }
                None => {
                    let message = format!("wait_for: no table is fed by the topic {}", wait_for.topic);
                    return Err(Error::new(Kind::Query, message).hint("SET wait_for = '' waits no more"));
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn planned_state(&self) -> SessionState {
        self.pinned().1
    }

    fn pinned(&self) -> (Arc<PinnedCatalog>, SessionState) {
        let catalog = self.service.pin(self.role.as_ref());
        let mut state = SessionState::clone(&self.now.lock().state);
        state.register_catalog_list(Arc::new(PinnedList(Arc::clone(&catalog))));
        state.mark_start_execution();
        if let Some(past) = catalog.past() {
            state.register_udtf(past::AT_VERSION, Arc::new(AtVersion(Arc::clone(past))));
            state.register_udtf(past::AT_TIME, Arc::new(AtTime(Arc::clone(past))));
        }
        (catalog, state)
    }

    fn change(&self, change: impl FnOnce(&mut Settings, &Settings) -> Result<()>) -> Result<()> {
        let mut now = self.now.lock();
        change(&mut now.settings, self.service.defaults())?;
        let mut state = self.service.state().clone();
        state.config_mut().options_mut().execution.time_zone = Some(now.settings.timezone.clone());
        if let Some(bytes) = self.role.as_ref().and_then(|role| role.memory_bytes()) {
            fit(&mut state, bytes);
        }
        // Functions such as now() keep the options they were built with.
        let options = Arc::clone(state.config_options());
        let changed: Vec<_> =
            state.scalar_functions().values().filter_map(|f| f.inner().with_updated_config(&options)).collect();
        for function in changed {
            state.register_udf(Arc::new(function)).map_err(|e| error::from_datafusion(e, ""))?;
        }
        now.state = Arc::new(state);
        Ok(())
    }
}

/// Plans no more parallel parts than so many bytes of memory are enough for.
fn fit(state: &mut SessionState, bytes: usize) {
    let parts = &mut state.config_mut().options_mut().execution.target_partitions;
    *parts = service::parts(*parts, bytes);
}

/// What people should know of the columns that a plan passes on from tables as they are, by position.
fn comments(plan: &LogicalPlan, catalog: &PinnedCatalog) -> Vec<Option<String>> {
    let mut tables: HashMap<&str, HashMap<String, String>> = HashMap::new();
    let mut stack = vec![plan];
    while let Some(plan) = stack.pop() {
        match plan {
            LogicalPlan::TableScan(scan) if scan.table_name.schema().is_none_or(|schema| schema == PUBLIC) => {
                tables.entry(scan.table_name.table()).or_insert_with(|| comments_of(scan, catalog));
            }
            LogicalPlan::SubqueryAlias(alias) => {
                if let LogicalPlan::TableScan(scan) = &*alias.input {
                    tables.insert(alias.alias.table(), comments_of(scan, catalog));
                }
            }
            _ => stack.extend(plan.inputs()),
        }
    }
    let comment = |(qualifier, field): (Option<&TableReference>, &FieldRef)| {
        tables.get(qualifier?.table())?.get(field.name()).cloned()
    };
    plan.schema().iter().map(comment).collect()
}

/// What people should know of a table's columns; a view passes on what is known of those that it passes on.
fn comments_of(scan: &TableScan, catalog: &PinnedCatalog) -> HashMap<String, String> {
    let mut found = catalog.comments(scan.table_name.table());
    if let Some(view) = scan.source.get_logical_plan() {
        for (field, comment) in view.schema().fields().iter().zip(comments(&view, catalog)) {
            if let Some(comment) = comment {
                found.entry(field.name().clone()).or_insert(comment);
            }
        }
    }
    found
}

/// Plans a statement; first the views it names, and those they name. `inside` holds the views being planned.
fn plan<'a>(
    catalog: &'a PinnedCatalog,
    state: &'a SessionState,
    sql: &'a str,
    statement: Ast,
    inside: &'a mut Vec<String>,
) -> BoxFuture<'a, Result<LogicalPlan>> {
    async move {
        let references = state.resolve_table_references(&statement).map_err(|e| error::from_datafusion(e, sql))?;
        if references.iter().any(|table| table.schema() == Some(INFORMATION_SCHEMA)) {
            for name in catalog.view_names() {
                // A broken view must not hide the others; whoever selects from it is told.
                let _ = plan_view(catalog, state, name, inside).await;
            }
        }
        if inside.is_empty()
            && let Some(table) =
                references.iter().find(|of| catalog.is_denied(of.schema().unwrap_or(PUBLIC), of.table()))
        {
            return Err(Role::denied(table.table()));
        }
        for table in &references {
            if catalog.unplanned_view(table.schema().unwrap_or(PUBLIC), table.table()).is_some() {
                plan_view(catalog, state, table.table(), inside).await?;
            }
        }
        let planned = loop {
            match (state.statement_to_plan(statement.clone()).await, catalog.past()) {
                (Ok(planned), _) => break planned,
                (Err(_), Some(past)) if past.load().await? => {}
                (Err(error), _) => return Err(explain(error, catalog, state, sql)),
            }
        };
        allow::verify(&planned)?;
        Ok(planned)
    }
    .boxed()
}

/// Plans a view and adds it to the statement's catalog.
fn plan_view<'a>(
    catalog: &'a PinnedCatalog,
    state: &'a SessionState,
    name: &'a str,
    inside: &'a mut Vec<String>,
) -> BoxFuture<'a, Result<()>> {
    async move {
        let Some(sql) = catalog.unplanned_view(PUBLIC, name) else { return Ok(()) };
        if inside.iter().any(|outer| outer == name) {
            let circle = inside.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(" → ");
            return Err(Error::new(Kind::Query, format!("the view `{name}` is defined by itself: {circle}")));
        }
        inside.push(name.to_owned());
        let planned = plan_view_query(catalog, state, sql, inside).await;
        inside.pop();
        let view: Arc<dyn TableProvider> =
            Arc::new(ViewTable::new(planned.map_err(|e| in_view(name, e))?, Some(sql.to_owned())));
        let view = catalog.restricted(name, view);
        catalog.add_view(name.to_owned(), view);
        Ok(())
    }
    .boxed()
}

async fn plan_view_query(
    catalog: &PinnedCatalog,
    state: &SessionState,
    sql: &str,
    inside: &mut Vec<String>,
) -> Result<LogicalPlan> {
    plan(catalog, state, sql, select(sql, "a view")?, inside).await
}

/// The one SELECT that `what` is.
fn select(sql: &str, what: &str) -> Result<Ast> {
    let parsed = parse::parse(sql)?;
    if parsed.parameters > 0 {
        return Err(Error::new(Kind::Query, format!("{what} has no parameters")));
    }
    let is_query = matches!(&parsed.statement, Ast::Statement(s) if matches!(**s, datafusion::sql::sqlparser::ast::Statement::Query(_)));
    if !is_query {
        return Err(Error::new(Kind::Query, format!("{what} is one SELECT")));
    }
    let Ask::Rows(statement) = allow::sort(parsed)? else {
        return Err(Error::new(Kind::Query, format!("{what} is one SELECT")));
    };
    Ok(*statement)
}

/// Plans a view to its end, coerced types included.
fn check_view<'a>(
    catalog: &'a PinnedCatalog,
    state: &'a SessionState,
    name: &'a str,
    known: bool,
) -> BoxFuture<'a, Result<()>> {
    async move {
        let Some(sql) = catalog.unplanned_view(PUBLIC, name) else { return Ok(()) };
        let statement = select(sql, "a view")?;
        let planned = plan(catalog, state, sql, statement, &mut vec![name.to_owned()]).await;
        let planned = planned.and_then(|plan| state.optimize(&plan).map_err(|e| error::from_datafusion(e, sql)));
        match planned {
            Err(error) if known || matches!(error.kind(), Kind::NotFound | Kind::Denied) => Err(error),
            _ => Ok(()),
        }
    }
    .boxed()
}

fn in_view(name: &str, error: Error) -> Error {
    let wrapped = Error::new(error.kind(), format!("in view `{name}`: {}", error.message()));
    match error.hint_text() {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}

/// Says more where DataFusion only says "table not found".
fn explain(
    cause: datafusion::common::DataFusionError,
    catalog: &PinnedCatalog,
    state: &SessionState,
    sql: &str,
) -> Error {
    let text = cause.find_root().message().into_owned();
    let missing = text.strip_prefix("table '").and_then(|rest| rest.split_once("' not found")).map(|(name, _)| name);
    let Some(missing) = missing else { return error::from_datafusion(cause, sql) };
    let defaults = &state.config_options().catalog;
    let default_schema = format!("{}.{}.", defaults.default_catalog, defaults.default_schema);
    let own_catalog = format!("{}.", defaults.default_catalog);
    let shown = missing.strip_prefix(&default_schema).or_else(|| missing.strip_prefix(&own_catalog)).unwrap_or(missing);
    let mut names: Vec<String> = catalog.tables(PUBLIC).into_iter().map(|(name, _)| name).collect();
    names.extend(catalog.view_names().cloned());
    for schema in catalog.schema_names().filter(|schema| *schema != PUBLIC) {
        names.extend(catalog.tables(schema).into_iter().map(|(name, _)| format!("{schema}.{name}")));
    }
    names.sort();
    names.dedup();
    error::unknown_table(shown, &names, sql)
}
