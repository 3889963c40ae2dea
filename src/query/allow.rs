//! Read-only by allow-list, twice: the kind of statement before planning, every node of the plan after it. What a
//! later DataFusion adds is refused until it is listed here.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNodeRecursion, TreeNodeVisitor};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{ResetStatement, Statement};
use datafusion::sql::sqlparser::ast::{self, Expr, Set, SetExpr, UnaryOperator, Visit, Visitor};

use super::error;
use super::parse::Parsed;
use crate::error::{Error, Kind, Result};

/// What a statement asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Rows of a plan: SELECT, EXPLAIN, DESCRIBE, SHOW TABLES…
    Rows(Box<Statement>),
    /// The same of every new row of the first table, from now on: SUBSCRIBE SELECT…
    Subscribe(Box<Statement>),
    /// Change a session option.
    Set { name: String, value: String },
    /// Take a session option back.
    Reset { name: String },
    /// Show one session option, or all.
    Show { name: Option<String> },
}

/// Sorts a statement, or refuses it.
pub(super) fn sort(parsed: Parsed) -> Result<Ask> {
    let is_query = matches!(&parsed.statement, Statement::Statement(sql) if matches!(**sql, ast::Statement::Query(_)));
    match classify(parsed.statement)? {
        Ask::Rows(statement) if parsed.subscribes && is_query && parsed.parameters == 0 => {
            Ok(Ask::Subscribe(statement))
        }
        _ if parsed.subscribes && parsed.parameters > 0 => Err(Error::new(Kind::Query, "SUBSCRIBE has no parameters")),
        _ if parsed.subscribes => Err(Error::new(Kind::Query, "SUBSCRIBE is followed by one SELECT")),
        ask => Ok(ask),
    }
}

/// Sorts a statement, or refuses it.
fn classify(statement: Statement) -> Result<Ask> {
    match &statement {
        Statement::Explain(explain) => match classify((*explain.statement).clone())? {
            Ask::Rows(_) => Ok(Ask::Rows(Box::new(statement))),
            _ => Err(refuse(&explain.statement)),
        },
        Statement::Reset(ResetStatement::Variable(name)) => Ok(Ask::Reset { name: plain(name) }),
        Statement::Statement(sql) => match sql.as_ref() {
            ast::Statement::Query(query) => match query.visit(&mut NoWrites) {
                ControlFlow::Break(what) => Err(denied(what)),
                ControlFlow::Continue(()) => Ok(Ask::Rows(Box::new(statement))),
            },
            ast::Statement::ExplainTable { .. }
            | ast::Statement::ShowTables { .. }
            | ast::Statement::ShowColumns { .. }
            | ast::Statement::ShowFunctions { .. } => Ok(Ask::Rows(Box::new(statement))),
            ast::Statement::Explain { statement: inner, .. } => match classify(Statement::Statement(inner.clone()))? {
                Ask::Rows(_) => Ok(Ask::Rows(Box::new(statement))),
                _ => Err(refuse(&statement)),
            },
            ast::Statement::ShowVariable { variable } => {
                let name = variable.iter().map(|ident| ident.value.as_str()).collect::<Vec<_>>().join(".");
                Ok(Ask::Show { name: (!name.eq_ignore_ascii_case("all")).then_some(name) })
            }
            ast::Statement::Set(set) => assignment(set).ok_or_else(|| refuse(&statement)),
            _ => Err(refuse(&statement)),
        },
        _ => Err(refuse(&statement)),
    }
}

/// Takes VERBOSE out of EXPLAIN.
pub(super) fn not_verbose(statement: &mut Statement) {
    match statement {
        Statement::Explain(explain) => {
            explain.options.verbose = false;
            not_verbose(&mut explain.statement);
        }
        Statement::Statement(sql) => {
            if let ast::Statement::Explain { verbose, .. } = sql.as_mut() {
                *verbose = false;
            }
        }
        _ => {}
    }
}

/// Finds statements that write inside a query: in CTEs, subqueries, set operations.
struct NoWrites;

impl Visitor for NoWrites {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<Self::Break> {
        writes(&query.body).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }
}

fn writes(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        SetExpr::SetOperation { left, right, .. } => writes(left).or_else(|| writes(right)),
        SetExpr::Query(_) | SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => None,
    }
}

fn assignment(set: &Set) -> Option<Ask> {
    let (name, value) = match set {
        Set::SingleAssignment {
            scope: None | Some(ast::ContextModifier::Session),
            hivevar: false,
            variable,
            values,
        } => {
            let [value] = values.as_slice() else { return None };
            (plain(variable), value)
        }
        Set::SetTimeZone { local: false, value } => ("timezone".to_owned(), value),
        _ => return None,
    };
    Some(Ask::Set { name, value: literal(value)? })
}

fn plain(name: &ast::ObjectName) -> String {
    name.to_string().replace(['"', '`'], "")
}

fn literal(value: &Expr) -> Option<String> {
    match value {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::Value(value) => match &value.value {
            ast::Value::Number(number, _) => Some(number.to_string()),
            ast::Value::SingleQuotedString(text) | ast::Value::DoubleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Some(format!("-{}", literal(expr)?)),
        _ => None,
    }
}

fn refuse(statement: &Statement) -> Error {
    let text = statement.to_string();
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or("this statement").to_ascii_uppercase();
    let what = match first.as_str() {
        "CREATE" | "DROP" | "ALTER" | "EXPLAIN" | "SHOW" => {
            let second = words.next().unwrap_or_default().to_ascii_uppercase();
            format!("{first} {second}").trim_end().to_owned()
        }
        _ => first,
    };
    denied(&what)
}

fn denied(what: &str) -> Error {
    Error::new(Kind::Denied, format!("{what} is not allowed: SQL reads here and changes nothing"))
        .hint("allowed are SELECT, EXPLAIN, DESCRIBE, SHOW, and SET of timezone and statement_timeout")
}

/// Refuses a plan that holds, at any depth, a node that is not known to only read.
pub(super) fn verify(plan: &LogicalPlan) -> Result<()> {
    plan.visit_with_subqueries(&mut OnlyReads).map(|_| ()).map_err(|e| error::from_datafusion(e, ""))
}

struct OnlyReads;

impl<'n> TreeNodeVisitor<'n> for OnlyReads {
    type Node = LogicalPlan;

    fn f_down(&mut self, node: &'n LogicalPlan) -> datafusion::common::Result<TreeNodeRecursion> {
        let what = match node {
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Repartition(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Subquery(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Values(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::DescribeTable(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::RecursiveQuery(_) => return Ok(TreeNodeRecursion::Continue),
            LogicalPlan::Statement(statement) => statement.name().to_owned(),
            LogicalPlan::Dml(dml) => dml.op.to_string(),
            LogicalPlan::Ddl(ddl) => ddl.name().to_owned(),
            LogicalPlan::Copy(_) => "COPY".to_owned(),
            LogicalPlan::Extension(extension) => extension.node.name().to_owned(),
        };
        Err(DataFusionError::External(Box::new(denied(&what))))
    }
}
