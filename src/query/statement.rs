//! A statement to run again and again, and a query that is planned and pinned, ready to run.

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use arrow::array::{RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::physical_plan::execute_stream;
use datafusion::scalar::ScalarValue;
use tokio::time::Instant;

use super::activity::Entry;
use super::allow::{self, Ask};
use super::compute;
use super::continuous::{Continuous, Found, Shared};
use super::direct::Direct;
use super::origin;
use super::postgres::{self, ColumnType};
use super::result_cache::Keep;
use super::rows::{self, Pump, Rows};
use super::session::{Planned, Session};
use super::{PUBLIC, error, parse, wire};
use crate::error::{Error, Kind, Result};
use crate::schema::type_name;

/// Functions that give one of their arguments.
pub(super) const CHOOSES: [&str; 5] = ["coalesce", "nullif", "nvl", "greatest", "least"];

/// A prepared statement of one session. Cheap to clone.
#[derive(Clone)]
pub struct Statement {
    session: Session,
    sql: Arc<str>,
    ask: Arc<Ask>,
    parameters: Arc<[DataType]>,
    /// PostgreSQL's types that parameters are cast to, by their numbers from 0.
    casts: Arc<[(usize, ColumnType)]>,
    schema: SchemaRef,
    /// What it is, if it need not be planned each time.
    direct: Option<Arc<ArcSwap<Direct>>>,
}

/// A statement planned on tables pinned at that time. Running it later still shows the rows of that time.
#[derive(Clone)]
pub struct Query {
    session: Session,
    sql: Arc<str>,
    what: What,
    schema: SchemaRef,
}

#[derive(Clone)]
enum What {
    Plan {
        plan: LogicalPlan,
        state: Arc<SessionState>,
        /// Bytes of its text and values, if its result is the same for all who ask in this role, until one of its tables
        /// changes.
        steady: Option<usize>,
    },
    Ready(RecordBatch),
    Follow(Arc<Continuous>),
    Set {
        name: String,
        value: Option<String>,
    },
}

impl Statement {
    pub(super) async fn prepare(session: Session, sql: &str, declared: Vec<Option<DataType>>) -> Result<Self> {
        let parsed = parse::parse(sql)?;
        let mut parameters = vec![DataType::Utf8; parsed.parameters];
        let mut ask = allow::sort(parsed)?;
        let (mut direct, mut casts) = (None, Vec::new());
        let schema = match &mut ask {
            Ask::Rows(statement) => {
                // As the client wrote it.
                casts = postgres::casts(statement);
                session.rewrite(statement);
                let options = session.options();
                let mut first = (**statement).clone();
                let numbers = parse::fill_series(&mut first, &[]);
                let mut planned = session.plan(sql, first).await?;
                let mut types = parameter_types(&planned.plan, parameters.len(), sql)?;
                for at in numbers {
                    types[at] = Some(DataType::Int64);
                }
                for (at, told) in by_choice(&planned.plan) {
                    if let Some(known @ None) = types.get_mut(at)
                        && declared.get(at).is_none_or(Option::is_none)
                    {
                        *known = Some(told);
                    }
                }
                let declared = session.declared(statement, declared, parameters.len());
                let told = types.iter().zip(&declared);
                let untold: Vec<Option<DataType>> =
                    told.map(|(found, declared)| declared.clone().filter(|_| found.is_none())).collect();
                if untold.iter().any(Option::is_some) {
                    let mut cast = (**statement).clone();
                    parse::cast_parameters(&mut cast, &untold);
                    let mut filled = cast.clone();
                    parse::fill_series(&mut filled, &[]);
                    // If it cannot be planned so, it is as if nothing had been said.
                    if let Ok(again) = session.plan(sql, filled).await {
                        let told = parameter_types(&again.plan, parameters.len(), sql)?;
                        types = told.into_iter().zip(types).map(|(told, before)| told.or(before)).collect();
                        (planned, **statement) = (again, cast);
                    }
                }
                let Planned { plan, state, comments, is_own } = planned;
                let mut casts = cast_to(&plan);
                for (at, (found, declared)) in types.into_iter().zip(declared).enumerate() {
                    parameters[at] = found.or(declared).or(casts.remove(&at)).unwrap_or(DataType::Utf8);
                }
                // Types before and after coercion differ (of a UNION, say); with parameters still open coercion may
                // fail, and then the raw types are the best guess.
                let coerced = state.optimize(&plan).ok();
                let schema = wire::schema(coerced.as_ref().unwrap_or(&plan).schema().as_arrow());
                let schema = wire::with_comments(&schema, comments);
                direct = coerced.filter(|_| !is_own).and_then(|optimized| {
                    let tables = state.resolve_table_references(statement).ok()?;
                    let named = match &tables[..] {
                        [] => None,
                        [one] if one.schema().is_none_or(|schema| schema == PUBLIC) => {
                            Some((one.table().to_owned(), session.keyed(one.table())?))
                        }
                        _ => return None,
                    };
                    Direct::of(named, options, &plan, &optimized, Arc::clone(&schema))
                });
                schema
            }
            Ask::Subscribe(statement) => {
                let query =
                    session.plan_continuous(sql, (**statement).clone(), false).await?.row_by_row("SUBSCRIBE")?;
                wire::schema(&query.schema())
            }
            other => answer(&session, other)?.schema(),
        };
        let parameters = parameters.iter().map(wire::data_type).collect();
        let direct = direct.map(|direct| Arc::new(ArcSwap::from_pointee(direct)));
        Ok(Self { session, sql: sql.into(), ask: Arc::new(ask), parameters, casts: casts.into(), schema, direct })
    }

    /// Wire schema of its rows; of a statement with parameters it may widen when values are bound.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Types of its parameters, in the order of their numbers; `Utf8` where the text does not tell.
    pub fn parameters(&self) -> &[DataType] {
        &self.parameters
    }

    /// The type of PostgreSQL that a parameter is cast to where it stands; its number is from 0.
    pub fn cast_of(&self, parameter: usize) -> Option<ColumnType> {
        self.casts.iter().find(|(at, _)| *at == parameter).map(|(_, cast)| *cast)
    }

    /// Whether `session` may run it: it is of whoever prepared it, in the same role.
    pub fn belongs_to(&self, session: &Session) -> bool {
        self.session.is_like(session)
    }

    /// False for SET and RESET, which answer without rows.
    pub fn has_rows(&self) -> bool {
        matches!(*self.ask, Ask::Rows(_) | Ask::Subscribe(_) | Ask::Show { .. })
    }

    /// Plans it with these values on the tables as they are now.
    pub fn bind<'a>(&'a self, values: Vec<ScalarValue>) -> BoxFuture<'a, Result<Query>> {
        Box::pin(async move {
            let (want, have) = (self.parameters.len(), values.len());
            if want != have {
                let text = format!("the statement has {want} parameters, {have} values are given");
                return Err(Error::new(Kind::Query, text));
            }
            if let Some(direct) = &self.direct {
                let found = if direct.load().is_light() {
                    // Here and now: to wake another thread would take longer than it does.
                    self.without_plan(direct, &values).await?
                } else {
                    let (statement, direct, values) = (self.clone(), Arc::clone(direct), values.clone());
                    let work = async move { statement.without_plan(&direct, &values).await };
                    self.session.threads().run(work).await?
                };
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            self.session.bind(Arc::clone(&self.sql), Ask::clone(&self.ask), values).await
        })
    }

    /// Runs it without planning it; `None` if it has to be planned each time now, or with these values.
    async fn without_plan(&self, direct: &ArcSwap<Direct>, values: &[ScalarValue]) -> Result<Option<Query>> {
        self.session.wait().await?;
        let mut now = direct.load_full();
        if !now.is_valid(&self.session.options(), |table| self.session.keyed(table)) {
            let declared = self.parameters.iter().cloned().map(Some).collect();
            let again = self.session.prepare_typed(&self.sql, declared).await?;
            let Some(again) = again.direct else { return Ok(None) };
            now = again.load_full();
            direct.store(Arc::clone(&now));
        }
        let found = now.run(values)?.map(|rows| Query {
            session: self.session.clone(),
            sql: Arc::clone(&self.sql),
            what: What::Ready(rows),
            schema: now.schema(),
        });
        Ok(found)
    }

    /// Whether it runs without being planned.
    #[cfg(test)]
    pub(super) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Runs it with these values on the tables as they are now.
    pub fn run<'a>(&'a self, values: Vec<ScalarValue>) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move { self.bind(values).await?.run().await })
    }
}

/// The types of a plan's parameters in the order of their numbers, where it tells.
fn parameter_types(plan: &LogicalPlan, count: usize, sql: &str) -> Result<Vec<Option<DataType>>> {
    let mut types = vec![None; count];
    for (name, found) in plan.get_parameter_types().map_err(|e| error::from_datafusion(e, sql))? {
        if let Some(known) = parse::parameter_index(&name).and_then(|at| types.get_mut(at)) {
            *known = found;
        }
    }
    for (at, found) in by_place(plan) {
        types.get_mut(at).into_iter().filter(|known| known.is_none()).for_each(|known| *known = Some(found.clone()));
    }
    Ok(types)
}

/// Types of parameters that follow from where they stand: `column = ANY($1)` takes a list of the column's type, LIMIT and
/// OFFSET a number. Numbers from 0.
fn by_place(plan: &LogicalPlan) -> Vec<(usize, DataType)> {
    let mut found = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            let counts = limit.skip.iter().chain(&limit.fetch);
            found.extend(counts.filter_map(|count| Some((place(uncast(count))?, DataType::Int64))));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "nothing here fails");
    each_expression(plan, |node, expr| {
        if let Expr::ScalarFunction(function) = expr
            && function.name() == "array_has"
            && let [list, item] = &function.args[..]
            && let Some(at) = place(list)
            && let Ok(data_type) = item.get_type(&merge_schema(&node.inputs()))
        {
            found.push((at, DataType::new_list(wire::data_type(&data_type), true)));
        }
    });
    found
}

/// Types of parameters that nobody declared, by what may stand in their place: `coalesce($1, column)` takes what the column
/// is, and CASE what its other branches are. Numbers from 0.
fn by_choice(plan: &LogicalPlan) -> Vec<(usize, DataType)> {
    let mut found = Vec::new();
    each_expression(plan, |node, expr| {
        let choices = choices(expr);
        let open: Vec<usize> = choices.iter().filter_map(|choice| place(choice)).collect();
        if open.is_empty() {
            return;
        }
        let schema = merge_schema(&node.inputs());
        let known = choices.iter().filter(|choice| place(choice).is_none());
        let types: Vec<DataType> = known.filter_map(|choice| choice.get_type(&schema).ok()).collect();
        if let Some(told) = type_union_resolution(&types).filter(|told| *told != DataType::Null) {
            found.extend(open.into_iter().map(|at| (at, wire::data_type(&told))));
        }
    });
    found
}

/// Shows each expression of a plan and its subqueries, and what that is made of, with the node that it stands in.
fn each_expression(plan: &LogicalPlan, mut look: impl FnMut(&LogicalPlan, &Expr)) {
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                look(node, part);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(walked.is_ok(), "nothing here fails");
}

/// What an expression chooses from, all of one type.
fn choices(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::ScalarFunction(function) if CHOOSES.contains(&function.name()) => function.args.iter().collect(),
        Expr::Case(case) => {
            case.when_then_expr.iter().map(|(_, then)| &**then).chain(case.else_expr.as_deref()).collect()
        }
        _ => Vec::new(),
    }
}

/// The number of the parameter that an expression is, from 0.
fn place(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Placeholder(placeholder) => parse::parameter_index(&placeholder.id),
        _ => None,
    }
}

/// What is cast, if anything is.
fn uncast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => uncast(&cast.expr),
        other => other,
    }
}

/// The types that parameters are cast to where they stand, by their numbers from 0.
fn cast_to(plan: &LogicalPlan) -> BTreeMap<usize, DataType> {
    let mut found = BTreeMap::new();
    each_expression(plan, |_, expr| {
        if let Expr::Cast(cast) = expr
            && let Some(at) = place(&cast.expr)
        {
            found.entry(at).or_insert_with(|| cast.field.data_type().clone());
        }
    });
    found
}

impl Query {
    pub(super) fn plan<'a>(
        session: &'a Session,
        sql: &'a str,
        ask: Ask,
        values: Vec<ScalarValue>,
    ) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            let (session, sql) = (session.clone(), Arc::<str>::from(sql));
            let statement = match ask {
                Ask::Rows(statement) => statement,
                other => {
                    let what = match other {
                        Ask::Subscribe(statement) => {
                            let query = session.plan_continuous(&sql, *statement, false).await?;
                            What::Follow(Arc::new(query.row_by_row("SUBSCRIBE")?))
                        }
                        other => answer(&session, &other)?,
                    };
                    let schema = what.schema();
                    return Ok(Self { session, sql, what, schema });
                }
            };
            let mut statement = *statement;
            parse::fill_series(&mut statement, &values);
            let Planned { mut plan, state, comments, is_own } = session.plan(&sql, statement).await?;
            // The optimizer puts today's date where the statement says "today".
            let steady = (!is_own && compute::is_steady(&plan))
                .then(|| sql.len() + values.iter().map(ScalarValue::size).sum::<usize>());
            if !values.is_empty() {
                let values: Vec<_> = values.into_iter().map(Into::into).collect();
                plan =
                    plan.with_param_values(ParamValues::List(values)).map_err(|e| error::from_datafusion(e, &sql))?;
            }
            // Optimized here, because only then are the types those of the rows that will come.
            let plan = state.optimize(&plan).map_err(|e| error::from_datafusion(e, &sql))?;
            let schema = wire::with_comments(&wire::schema(plan.schema().as_arrow()), comments);
            let what = match plan {
                LogicalPlan::DescribeTable(asked) => What::Ready(describe(&asked.schema, &schema)?),
                plan => What::Plan { plan, state: Arc::new(state), steady },
            };
            Ok(Self { session, sql, what, schema })
        })
    }

    /// Wire schema of its rows.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Whether `session` may run it: it is of whoever planned it, in the same role.
    pub fn belongs_to(&self, session: &Session) -> bool {
        self.session.is_like(session)
    }

    /// The columns of tables that its column `name` passes on as they are, if it has no other values.
    pub fn origins(&self, name: &str) -> Option<Vec<(String, String)>> {
        let What::Plan { plan, .. } = &self.what else { return None };
        let at = plan.schema().fields().iter().position(|field| field.name() == name)?;
        origin::origins(plan, at)
    }

    /// The tables of schema `public` that it reads, those behind views too.
    pub fn tables(&self) -> BTreeSet<String> {
        let mut tables = BTreeSet::new();
        if let What::Plan { plan, .. } = &self.what {
            let found = plan.apply_with_subqueries(|node| {
                if let LogicalPlan::TableScan(scan) = node
                    && scan.table_name.schema().is_none_or(|schema| schema == PUBLIC)
                {
                    tables.insert(scan.table_name.table().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            });
            debug_assert!(found.is_ok(), "nothing here fails");
        }
        tables
    }

    /// True of SUBSCRIBE, whose rows come without end.
    pub fn is_live(&self) -> bool {
        matches!(self.what, What::Follow(_))
    }

    /// True of SET and RESET: running them changes the session and gives no rows.
    pub fn is_setting(&self) -> bool {
        matches!(self.what, What::Set { .. })
    }

    /// Starts it. Its time-out counts from here to the last row; dropping the rows cancels it.
    pub fn run<'a>(&'a self) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            let (plan, state, steady) = match &self.what {
                What::Ready(batch) => return Ok(rows::ready(Arc::clone(&self.schema), vec![batch.clone()])),
                What::Set { name, value } => {
                    match value {
                        Some(value) => self.session.set(name, value)?,
                        None => self.session.reset(name)?,
                    }
                    return Ok(rows::ready(Arc::clone(&self.schema), Vec::new()));
                }
                What::Follow(query) => return self.follow(query).await,
                What::Plan { plan, state, steady } => (plan, Arc::clone(state), *steady),
            };
            let asked = steady.and_then(|bytes| self.session.ask_cache(plan, &state, bytes));
            if let Some(known) = asked.as_ref().and_then(|asked| asked.answer(&self.schema)) {
                return Ok(rows::ready(Arc::clone(&self.schema), known));
            }
            let timeout = self.session.statement_timeout();
            let deadline = timeout.map(|timeout| (Instant::now() + timeout, timeout));
            let entry = self.session.begin(&self.sql, is_light(plan), deadline).await?;
            let (session, plan, sql) = (self.session.clone(), plan.clone(), Arc::clone(&self.sql));
            let start = self.session.threads().run(async move {
                let physical = state.query_planner().create_physical_plan(&plan, state.as_ref()).await;
                let stream = physical.and_then(|physical| {
                    let task = session.task(&state, &*physical);
                    execute_stream(physical, task)
                });
                stream.map_err(|e| error::from_datafusion(e, &sql))
            });
            let stream = rows::until(deadline, entry.unless_cancelled(start)).await???;
            let stream = stream.map_err(|e| error::from_datafusion(e, "")).boxed();
            let keep = asked.map(|asked| asked.keep(Arc::clone(&self.schema)));
            Ok(self.pump(deadline, entry, keep).start(self.session.threads(), stream))
        })
    }

    fn pump(&self, deadline: rows::Deadline, entry: Entry, keep: Option<Keep>) -> Pump {
        let (patience, most) = (self.session.patience(), self.session.most());
        Pump { schema: Arc::clone(&self.schema), deadline, patience, most, entry, keep }
    }

    /// What the query says of each row that comes from now on, of which its condition is true. It has no time-out.
    async fn follow(&self, query: &Arc<Continuous>) -> Result<Rows> {
        let (query, stream) = (Arc::clone(query), self.session.follow(query.stream()).await?);
        let found = stream.map(move |rows| {
            let Found { rows, holds, .. } = query.run(&rows?, &Shared::default())?;
            filter_record_batch(&rows, &holds).map_err(|e| error::from_datafusion(e.into(), ""))
        });
        // It waits for rows nearly all of its time: no place is its own.
        let entry = self.session.begin(&self.sql, true, None).await?;
        Ok(self.pump(None, entry, None).start(self.session.threads(), found.boxed()))
    }
}

impl What {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::Follow(query) => wire::schema(&query.schema()),
            Self::Plan { plan, .. } => wire::schema(plan.schema().as_arrow()),
            Self::Ready(batch) => batch.schema(),
            Self::Set { .. } => Arc::new(Schema::empty()),
        }
    }
}

/// Whether a plan reads nothing, or only what the platform says of itself: it must not wait behind others.
fn is_light(plan: &LogicalPlan) -> bool {
    let mut light = true;
    let walked = plan.apply_with_subqueries(|node| {
        light &= match node {
            LogicalPlan::TableScan(scan) => scan.table_name.schema().is_some_and(|schema| schema != PUBLIC),
            LogicalPlan::Unnest(_) | LogicalPlan::RecursiveQuery(_) => false,
            LogicalPlan::Join(join) => !join.on.is_empty(),
            _ => true,
        };
        Ok(if light { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    light && walked.is_ok()
}

/// What DESCRIBE answers, in the schema `to`; DataFusion would give the names of Arrow's types.
fn describe(columns: &Schema, to: &SchemaRef) -> Result<RecordBatch> {
    let fields = columns.fields();
    let names = StringArray::from_iter_values(fields.iter().map(|field| field.name()));
    let types = StringArray::from_iter_values(fields.iter().map(|field| type_name(field.data_type())));
    let nullable =
        StringArray::from_iter_values(fields.iter().map(|field| if field.is_nullable() { "YES" } else { "NO" }));
    RecordBatch::try_new(Arc::clone(to), vec![Arc::new(names), Arc::new(types), Arc::new(nullable)])
        .map_err(|e| error::from_datafusion(e.into(), ""))
}

/// What SET, RESET and SHOW come to.
fn answer(session: &Session, ask: &Ask) -> Result<What> {
    Ok(match ask {
        Ask::Set { name, value } => What::Set { name: name.clone(), value: Some(value.clone()) },
        Ask::Reset { name } => What::Set { name: name.clone(), value: None },
        Ask::Show { name } => {
            let shown = session.show(name.as_deref())?;
            let fields = ["name", "value"].map(|name| Field::new(name, DataType::Utf8, true));
            let names = StringArray::from_iter_values(shown.iter().map(|(name, _)| *name));
            let values = StringArray::from_iter_values(shown.iter().map(|(_, value)| value));
            let schema = Arc::new(Schema::new(fields.to_vec()));
            let batch = RecordBatch::try_new(schema, vec![Arc::new(names), Arc::new(values)]);
            What::Ready(batch.map_err(|e| error::from_datafusion(e.into(), ""))?)
        }
        Ask::Rows(_) | Ask::Subscribe(_) => return Err(Error::new(Kind::Internal, "a query was taken for a setting")),
    })
}
