//! PostgreSQL's SQL in words that can be planned here. Statements about the catalogs are written by tools, for one planner
//! only; those of people are left as they are but for the names of columns.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, TableAlias, TableFactor,
    Visit, VisitMut, Visitor, VisitorMut,
};

use super::{ColumnType, catalog, dialect, functions};
use crate::query::parse;

/// Number of a relation, from its name or number.
pub(super) const REGCLASS: &str = "pg_regclass";
/// Name of a relation.
pub(super) const REGCLASS_TEXT: &str = "pg_regclass_text";
/// Number of a type.
pub(super) const REGTYPE: &str = "pg_regtype";
/// Items of a list with their numbers.
pub(super) const EXPAND: &str = "pg_expandarray";
/// Stands in a column's name before what tells it from another of that name.
pub const SAME_NAME: char = '\u{1}';
/// The name of what has none.
const UNNAMED: &str = "?column?";
const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// Puts a client's statement into words that can be planned.
pub(in crate::query) fn rewrite(statement: &mut Statement) {
    if asks_of_types(statement)
        && let Ok(parsed) = parse::parse(TYPES)
    {
        *statement = parsed.statement;
    }
    let query = match statement {
        Statement::Statement(statement) => &mut **statement,
        Statement::Explain(explain) => return rewrite(&mut explain.statement),
        _ => return,
    };
    if let ast::Statement::Query(query) = query {
        name_columns(&mut query.body);
    }
    let _ = ast::visit_expressions_mut(query, |expr| {
        dialect::translate(expr);
        ControlFlow::<()>::Continue(())
    });
    if Visit::visit(query, &mut Asks).is_continue() {
        return;
    }
    if let ast::Statement::Query(query) = query {
        no_rows(query);
    }
    let _ = VisitMut::visit(query, &mut Rewrite);
}

/// What a parameter is read as that is cast to a type.
pub(in crate::query) fn parameter_type(known: ColumnType) -> Option<arrow::datatypes::DataType> {
    if known.item.name == "numeric" && !known.is_array {
        // As the cast itself reads it.
        return Some(arrow::datatypes::DataType::Decimal128(38, 10));
    }
    known.arrow()
}

/// The number of a parameter from 0.
fn place(expr: &Expr) -> Option<usize> {
    let Expr::Value(value) = expr else { return None };
    let ast::Value::Placeholder(name) = &value.value else { return None };
    parse::parameter_index(name)
}

/// What asyncpg asks of types that it does not know is a tree that is walked by a recursive query over subqueries. Of types
/// without fields, ranges and domains, as all are here, this is the same.
const TYPES: &str =
    "SELECT t.oid, 'pg_catalog' AS ns, t.typname AS name, t.typtype AS kind, CAST(NULL AS BIGINT) AS basetype,
    t.typelem AS elemtype, ',' AS elemdelim, CAST(NULL AS BIGINT) AS range_subtype, CAST(NULL AS TEXT[]) AS attrtypoids,
    CAST(NULL AS TEXT[]) AS attrnames, CASE WHEN t.typelem = 0 THEN 1 ELSE 0 END AS depth,
    CAST(NULL AS TEXT) AS basetype_name, e.typname AS elemtype_name, CAST(NULL AS TEXT) AS range_subtype_name
FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON t.typelem = e.oid
WHERE t.oid = ANY($1::oid[])
   OR t.oid IN (SELECT a.typelem FROM pg_catalog.pg_type a WHERE a.oid = ANY($1::oid[]))
ORDER BY depth DESC";

fn asks_of_types(statement: &Statement) -> bool {
    let Statement::Statement(statement) = statement else { return false };
    let ast::Statement::Query(query) = &**statement else { return false };
    let mut names = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| &cte.alias.name.value);
    names.any(|name| name == "typeinfo_tree")
}

/// The types that parameters are cast to where they stand, by their numbers from 0.
pub(in crate::query) fn casts(statement: &Statement) -> Vec<(usize, ColumnType)> {
    let mut found = Vec::new();
    if let Statement::Statement(statement) = statement {
        let _ = ast::visit_expressions(&**statement, |expr| {
            match expr {
                Expr::AnyOp { right, .. } => {
                    let texts = ColumnType::of_arrow(&arrow::datatypes::DataType::Utf8);
                    found.extend(place(right).map(|at| (at, ColumnType { is_array: true, ..texts })));
                }
                Expr::Cast { expr, data_type, .. } => {
                    found.extend(place(expr).zip(functions::type_named(&data_type.to_string())));
                }
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
    }
    found
}

/// Whether a statement, rewritten or not, names what is PostgreSQL's own.
pub(in crate::query) fn asks(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => statement.visit(&mut Asks).is_break(),
        Statement::Explain(explain) => asks(&explain.statement),
        _ => false,
    }
}

/// Looks for what is PostgreSQL's own.
struct Asks;

impl Visitor for Asks {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        match &words(name)[..] {
            [.., schema, _] if schema == PG_CATALOG || schema == INFORMATION_SCHEMA => ControlFlow::Break(()),
            [name] if catalog::has(name) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let is_own = match expr {
            Expr::Function(function) => match &words(&function.name)[..] {
                [schema, _] => schema == PG_CATALOG || schema == INFORMATION_SCHEMA,
                [name] => functions::is_own(name),
                _ => false,
            },
            Expr::Cast { data_type: DataType::Custom(_, _) | DataType::Regclass, .. } => true,
            Expr::Collate { .. } | Expr::BinaryOp { op: BinaryOperator::PGCustomBinaryOperator(_), .. } => true,
            _ => false,
        };
        if is_own { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The parts of a name, in small letters.
pub(super) fn words(name: &ObjectName) -> Vec<String> {
    let word = |part: &ObjectNamePart| part.as_ident().map(|ident| ident.value.to_ascii_lowercase());
    name.0.iter().filter_map(word).collect()
}

fn name(parts: &[&str]) -> ObjectName {
    ObjectName(parts.iter().map(|part| ObjectNamePart::Identifier(Ident::with_quote('"', *part))).collect())
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name: table, alias, args, .. } = factor else { return ControlFlow::Continue(()) };
        let parts = words(table);
        let (schema, own) = match &parts[..] {
            [.., schema, name] => (Some(schema.as_str()), name.as_str()),
            [name] => (None, name.as_str()),
            [] => return ControlFlow::Continue(()),
        };
        let found = match schema {
            Some(INFORMATION_SCHEMA) => Some(format!("{INFORMATION_SCHEMA}.{own}")),
            Some(PG_CATALOG) => Some(own.to_owned()),
            None if catalog::has(own) => Some(own.to_owned()),
            _ => None,
        };
        let Some(found) = found else { return ControlFlow::Continue(()) };
        // Functions that give tables: those of catalogs are there as tables.
        if let Some(arguments) = args.take()
            && !catalog::has(&found)
        {
            if own == "unnest" {
                let expr = |argument: FunctionArg| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                    _ => None,
                };
                *factor = TableFactor::UNNEST {
                    alias: alias.clone(),
                    array_exprs: arguments.args.into_iter().filter_map(expr).collect(),
                    with_offset: false,
                    with_offset_alias: None,
                    with_ordinality: false,
                };
            } else {
                *table = ObjectName::from(vec![Ident::new(own)]);
                *args = Some(arguments);
            }
            return ControlFlow::Continue(());
        }
        if alias.is_none() {
            let alias_name = Ident::with_quote('"', own);
            *alias = Some(TableAlias { explicit: true, name: alias_name, columns: Vec::new(), at: None });
        }
        *table = name(&[PG_CATALOG, &found]);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // A name of WITH hides a catalog of that name; nobody does that.
        query.locks.clear();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => rewrite_function(function),
            Expr::Collate { expr: inner, .. } => {
                let inner = std::mem::replace(&mut **inner, null());
                *expr = inner;
            }
            Expr::BinaryOp { op: op @ BinaryOperator::PGCustomBinaryOperator(_), .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(known) = parts.last().and_then(|name| operator(name))
                {
                    *op = known;
                }
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } => no_function(left, right),
            Expr::Cast { expr: inner, data_type, .. } => {
                if let Some(changed) = cast(inner, data_type) {
                    *expr = changed;
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                if count_from_one(root, access_chain) || matches!(**root, Expr::Identifier(_)) {
                    return ControlFlow::Continue(());
                }
                // A field of what is no column: `(f(x)).n`.
                for access in access_chain {
                    if let ast::AccessExpr::Dot(field) = access
                        && let Expr::Identifier(name) = field
                    {
                        *field = Expr::value(ast::Value::SingleQuotedString(name.value.clone()));
                    }
                }
            }
            Expr::Subquery(query) => {
                if reads_nothing(query) {
                    *expr = text_null();
                } else {
                    one_row(query);
                }
            }
            Expr::Exists { subquery, negated } if reads_nothing(subquery) => {
                *expr = Expr::value(ast::Value::Boolean(*negated));
            }
            _ => {}
        }
        if let Expr::Function(function) = expr
            && let Some(gathered) = array_of(function)
        {
            *expr = gathered;
        }
        if let Expr::Function(function) = expr
            && words(&function.name) == ["generate_subscripts"]
        {
            if let Some(list) = first_argument(function) {
                let count = call("array_upper", vec![list, one()]);
                *expr = call("unnest", vec![call("range", vec![one(), plus_one(count)])]);
            }
        } else if let Expr::Function(function) = expr
            && words(&function.name) == [EXPAND]
        {
            let inner = std::mem::replace(expr, null());
            *expr = call("unnest", vec![inner]);
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn null() -> Expr {
    Expr::value(ast::Value::Null)
}

fn text_null() -> Expr {
    null_of(DataType::Text)
}

fn null_of(data_type: DataType) -> Expr {
    Expr::Cast { kind: ast::CastKind::Cast, expr: Box::new(null()), data_type, array: false, format: None }
}

fn number(digits: &str) -> Expr {
    Expr::value(ast::Value::Number(digits.into(), false))
}

fn one() -> Expr {
    number("1")
}

fn plus_one(expr: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(expr), op: BinaryOperator::Plus, right: Box::new(one()) }
}

pub(super) fn call(function: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn first_argument(function: &Function) -> Option<Expr> {
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn rewrite_function(function: &mut Function) {
    let parts = words(&function.name);
    if let [schema, own] = &parts[..]
        && (schema == PG_CATALOG || schema == INFORMATION_SCHEMA)
    {
        function.name = ObjectName::from(vec![Ident::new(own.as_str())]);
    }
    if words(&function.name) == ["_pg_expandarray"] {
        function.name = ObjectName::from(vec![Ident::new(EXPAND)]);
    }
    // `current_user` has no brackets.
    if matches!(function.args, FunctionArguments::None) {
        function.args = FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        });
    }
}

/// The query of `ARRAY(SELECT …)`, whose rows are gathered.
fn array_of(function: &mut Function) -> Option<Expr> {
    if words(&function.name) != ["array"] {
        return None;
    }
    let FunctionArguments::Subquery(query) = &mut function.args else { return None };
    if reads_nothing(query) {
        let data_type = DataType::Array(ast::ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None));
        return Some(null_of(data_type));
    }
    let mut query = query.clone();
    aggregate(&mut query, "array_agg");
    Some(Expr::Subquery(query))
}

/// A function's number in a catalog is its name here; that of no function is `-`.
fn no_function(left: &mut Expr, right: &mut Expr) {
    const FUNCTIONS: [&str; 9] = [
        "typinput",
        "typoutput",
        "typreceive",
        "typsend",
        "typmodin",
        "typmodout",
        "typanalyze",
        "typsubscript",
        "amhandler",
    ];
    let is_function = |expr: &Expr| match expr {
        Expr::Identifier(ident) => FUNCTIONS.contains(&ident.value.as_str()),
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|ident| FUNCTIONS.contains(&ident.value.as_str())),
        _ => false,
    };
    if is_function(left) && *right == number("0") {
        *right = Expr::value(ast::Value::SingleQuotedString("-".into()));
    }
    let (one, other) = if is_function(left) { (&*left, right) } else { (&*right, left) };
    if is_function(one)
        && let Expr::CompoundIdentifier(parts) = other
        && let Some(last) = parts.last_mut().filter(|last| last.value == "oid")
    {
        *last = Ident::new("proname");
    }
}

/// Whether a subquery reads a catalog that has no rows here. Collations count among them: every column has the default one.
fn reads_nothing(query: &Query) -> bool {
    let SetExpr::Select(select) = &*query.body else { return false };
    let aggregates = select.projection.iter().any(|item| item.visit(&mut NoAggregates::default()).is_break());
    let mut factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    !aggregates
        && factors.any(|factor| match factor {
            TableFactor::Table { name, .. } => match &words(name)[..] {
                [schema, name] if schema == PG_CATALOG => catalog::is_empty(name) || name == "pg_collation",
                _ => false,
            },
            // Options of tables and columns: there are none.
            TableFactor::UNNEST { array_exprs, .. } => array_exprs.iter().any(|expr| match expr {
                Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|name| name.value.ends_with("options")),
                _ => false,
            }),
            _ => false,
        })
}

/// Vectors count from 0, arrays from 1: `indkey[n]` becomes `indkey[n + 1]`. True if it has changed anything.
fn count_from_one(root: &Expr, access_chain: &mut [ast::AccessExpr]) -> bool {
    const VECTORS: [&str; 5] = ["indkey", "indoption", "indclass", "indcollation", "proargtypes"];
    let is_vector = |expr: &Expr| column_name(expr).is_some_and(|name| VECTORS.contains(&name.as_str()));
    let (mut vector, mut changed) = (is_vector(root), false);
    for access in access_chain {
        match access {
            ast::AccessExpr::Dot(field) => vector = is_vector(field),
            ast::AccessExpr::Subscript(ast::Subscript::Index { index }) if vector => {
                let (from_zero, one) =
                    (Expr::Nested(Box::new(index.clone())), Expr::value(ast::Value::Number("1".into(), false)));
                *index = Expr::BinaryOp { left: Box::new(from_zero), op: BinaryOperator::Plus, right: Box::new(one) };
                (vector, changed) = (false, true);
            }
            ast::AccessExpr::Subscript(_) => vector = false,
        }
    }
    changed
}

/// A query over catalogs that have no rows here has none either: what it would make of them need not be planned.
fn no_rows(query: &mut Query) {
    if has_no_rows(&query.body) {
        blank(&mut query.body);
        (query.order_by, query.limit_clause) = (None, None);
    }
}

fn has_no_rows(body: &SetExpr) -> bool {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { left, right, .. } => return has_no_rows(left) && has_no_rows(right),
        _ => return false,
    };
    let only_adds = |join: &ast::Join| {
        use ast::JoinOperator as J;
        matches!(join.join_operator, J::Join(_) | J::Inner(_) | J::Left(_) | J::LeftOuter(_) | J::CrossJoin(_))
    };
    let is_plain = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            expr.visit(&mut NoAggregates::default()).is_continue()
        }
        _ => false,
    };
    fn is_empty(from: &ast::TableWithJoins, only_adds: &dyn Fn(&ast::Join) -> bool) -> bool {
        let gives_nothing = match &from.relation {
            TableFactor::Table { name, .. } => words(name).last().is_some_and(|name| catalog::is_empty(name)),
            TableFactor::Derived { subquery, .. } => has_no_rows(&subquery.body),
            TableFactor::NestedJoin { table_with_joins, .. } => is_empty(table_with_joins, only_adds),
            _ => false,
        };
        gives_nothing && from.joins.iter().all(only_adds)
    }
    let nothing = select.from.iter().any(|from| is_empty(from, &only_adds));
    (nothing || select.selection.as_ref().is_some_and(of_foreign_keys)) && select.projection.iter().all(is_plain)
}

/// Whether a condition is true of foreign keys only, of which there are none: `contype = 'f'`.
fn of_foreign_keys(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(condition) => of_foreign_keys(condition),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => of_foreign_keys(left) || of_foreign_keys(right),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let is_f =
                matches!(&**right, Expr::Value(value) if value.value == ast::Value::SingleQuotedString("f".into()));
            is_f && column_name(left).is_some_and(|name| name == "contype")
        }
        _ => false,
    }
}

fn blank(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            // Each has a name by now.
            let mut taken = Vec::new();
            for item in &mut select.projection {
                let name = given_name(item).unwrap_or_else(|| UNNAMED.to_owned());
                let alias = Ident::with_quote('"', another(&name, &mut taken));
                *item = SelectItem::ExprWithAlias { expr: text_null(), alias };
            }
            (select.from, select.selection) = (Vec::new(), Some(Expr::value(ast::Value::Boolean(false))));
        }
        SetExpr::SetOperation { left, right, .. } => {
            blank(left);
            blank(right);
        }
        _ => {}
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "||" => BinaryOperator::StringConcat,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        _ => return None,
    })
}

/// A cast to one of PostgreSQL's own types.
fn cast(inner: &mut Expr, data_type: &mut DataType) -> Option<Expr> {
    let mut taken = || std::mem::replace(inner, null());
    let is_regclass = |expr: &Expr| matches!(expr, Expr::Function(function) if words(&function.name) == [REGCLASS]);
    if let DataType::Array(ast::ArrayElemTypeDef::SquareBracket(item, _)) = data_type {
        // Of its items nothing is known that could be put in another's place.
        cast(&mut null(), item);
        return None;
    }
    let own = match data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::Custom(name, _) => words(name).pop()?,
        // The text of a relation's number is its name.
        DataType::Text | DataType::Varchar(_) if is_regclass(inner) => {
            let Expr::Function(function) = &*inner else { return None };
            return first_argument(function).map(|argument| call(REGCLASS_TEXT, vec![argument]));
        }
        _ => return None,
    };
    Some(match own.as_str() {
        "regclass" => call(REGCLASS, vec![taken()]),
        "regtype" => call(REGTYPE, vec![taken()]),
        // Functions go by their names.
        "regproc" | "regprocedure" => {
            if let Expr::Value(value) = &mut *inner
                && let ast::Value::SingleQuotedString(name) = &mut value.value
                && let Some(own) = name.strip_prefix("pg_catalog.")
            {
                *name = own.to_owned();
            }
            *data_type = DataType::Text;
            return None;
        }
        "oid" | "regoper" | "regnamespace" | "xid" | "cid" => {
            *data_type = DataType::BigInt(None);
            return None;
        }
        "name" | "char" | "bpchar" | "citext" | "unknown" | "aclitem" | "pg_node_tree" | "text" | "varchar" => {
            if is_regclass(inner) {
                *data_type = DataType::Text;
                return cast(inner, data_type);
            }
            *data_type = DataType::Text;
            return None;
        }
        "int2" => {
            *data_type = DataType::SmallInt(None);
            return None;
        }
        "int4" => {
            *data_type = DataType::Integer(None);
            return None;
        }
        "int8" => {
            *data_type = DataType::BigInt(None);
            return None;
        }
        "bool" => {
            *data_type = DataType::Boolean;
            return None;
        }
        "float8" => {
            *data_type = DataType::Double(ast::ExactNumberInfo::None);
            return None;
        }
        "int2vector" | "oidvector" | "anyarray" | "json" | "jsonb" => taken(),
        _ => return None,
    })
}

/// A subquery that stands for a value. PostgreSQL takes its one row; here it must be an aggregate to be one.
fn one_row(query: &mut Query) {
    let SetExpr::Select(select) = &*query.body else { return };
    // Those of people mean what they say.
    let is_own = |from: &ast::TableWithJoins| match &from.relation {
        TableFactor::Table { name, .. } => matches!(&words(name)[..], [schema, _] if schema == PG_CATALOG),
        _ => false,
    };
    if !select.from.iter().any(is_own) || !is_plain(select) {
        return;
    }
    query.limit_clause = None;
    query.order_by = None;
    aggregate(query, "max");
}

/// Whether a SELECT has one column, and neither groups nor aggregates.
fn is_plain(select: &Select) -> bool {
    let grouped = !matches!(&select.group_by, ast::GroupByExpr::Expressions(by, _) if by.is_empty());
    let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] = &select.projection[..]
    else {
        return false;
    };
    !grouped && select.having.is_none() && column.visit(&mut NoAggregates::default()).is_continue()
}

/// Looks for aggregates, but for those of queries inside.
#[derive(Default)]
struct NoAggregates {
    inside: usize,
}

impl Visitor for NoAggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        const AGGREGATES: [&str; 10] =
            ["count", "sum", "min", "max", "avg", "string_agg", "array_agg", "bool_or", "bool_and", "json_agg"];
        if self.inside > 0 {
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Function(function)
                if words(&function.name).last().is_some_and(|name| AGGREGATES.contains(&name.as_str())) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Wraps the one column of a query in an aggregate. An order within goes with it.
fn aggregate(query: &mut Query, function: &str) {
    let SetExpr::Select(select) = &mut *query.body else { return };
    if !is_plain(select) {
        return;
    }
    if let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
        &mut select.projection[..]
    {
        let inner = std::mem::replace(column, null());
        *column = call(function, vec![inner]);
    }
    query.order_by = None;
}

/// Names columns as PostgreSQL does where nobody did: that of a function is the function's name. Two columns of one name,
/// which are not known here, differ by what stands behind [`SAME_NAME`]; the door does not show it.
fn name_columns(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left);
            return name_columns(right);
        }
        SetExpr::Query(query) => return name_columns(&mut query.body),
        _ => return,
    };
    let mut taken: Vec<String> = select.projection.iter().filter_map(given_name).collect();
    let all = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _));
    // A column beside all of a table, it among them.
    let beside_all = select.projection.iter().any(all);
    let has_condition = select.having.is_some();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        let is_first = |name: &String| taken.iter().filter(|taken| *taken == name).count() < 2;
        if !beside_all && is_column && column_name(expr).as_ref().is_none_or(is_first) {
            continue;
        }
        // A name that HAVING could take for the column itself.
        if has_condition && matches!(expr, Expr::Cast { .. } | Expr::Nested(_)) {
            continue;
        }
        let name = column_name(expr).unwrap_or_else(|| UNNAMED.to_owned());
        // What is named after a column could be taken for it.
        if !matches!(expr, Expr::Function(_) | Expr::Value(_)) && name != UNNAMED {
            taken.push(name.clone());
        }
        let alias = Ident::with_quote('"', another(&name, &mut taken));
        let expr = std::mem::replace(expr, null());
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

/// The name of a column that has one already.
fn given_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(ident.value.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(|ident| ident.value.clone()),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    }
}

/// `name`, or the same with a number that is not shown.
fn another(name: &str, taken: &mut Vec<String>) -> String {
    let unique = std::iter::once(name.to_owned())
        .chain((2..).map(|number| format!("{name}{SAME_NAME}{number}")))
        .find(|name| !taken.contains(name))
        .unwrap_or_default();
    taken.push(unique.clone());
    unique
}

fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| ident.value.clone()),
        Expr::Function(function) => words(&function.name).pop(),
        Expr::Cast { expr, .. } => column_name(expr).filter(|_| !matches!(**expr, Expr::Value(_))),
        Expr::Nested(expr) => column_name(expr),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Case { .. } => Some("case".to_owned()),
        Expr::Value(_) | Expr::BinaryOp { .. } | Expr::UnaryOp { .. } => Some(UNNAMED.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
