//! Text to one statement. `?` becomes `$1`, `$2`… here, token by token, because DataFusion takes every `?` for the
//! same parameter; tokens keep their places, so errors still point into the text that was typed.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::error;
use crate::error::{Error, Kind, Result};

/// Nested expressions deeper than this are refused instead of overflowing the stack.
const RECURSION_LIMIT: usize = 100;
/// Operators of one statement: a chain of them (`1 + 1 + …`, `SELECT … UNION SELECT …`) is as deep as it is long.
const CHAIN_LIMIT: usize = 2_000;
/// Parameters of one statement.
const PARAMETER_LIMIT: usize = 10_000;

/// One statement and the number of its parameters.
pub(super) struct Parsed {
    pub(super) statement: Statement,
    pub(super) parameters: usize,
    /// It begins with SUBSCRIBE: its rows are those that come.
    pub(super) subscribes: bool,
}

/// Parses exactly one statement.
pub(super) fn parse(sql: &str) -> Result<Parsed> {
    let mut tokens = tokenize(sql)?;
    if tokens.iter().filter(|token| chains(&token.token)).count() > CHAIN_LIMIT {
        let text = format!("more than {CHAIN_LIMIT} operators in one statement");
        return Err(Error::new(Kind::Query, text).hint("IN (…) takes a list of any length"));
    }
    let parameters = number_parameters(&mut tokens)?;
    let subscribes = take_subscribe(&mut tokens);
    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(RECURSION_LIMIT)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| error::from_datafusion(e, sql))?;
    let statement =
        statements.pop_front().ok_or_else(|| Error::new(Kind::Query, "there is no statement in the query text"))?;
    if !statements.is_empty() {
        return Err(Error::new(Kind::Query, "one statement at a time: the text holds several")
            .hint("send each statement by itself, or use `millpond sql -f FILE`"));
    }
    Ok(Parsed { statement, parameters, subscribes })
}

/// Says of which types parameters are, by their numbers: `$1` becomes `CAST($1 AS BIGINT)`.
pub(super) fn cast_parameters(statement: &mut Statement, types: &[Option<DataType>]) {
    let Statement::Statement(statement) = statement else { return };
    let _ = ast::visit_expressions_mut(&mut **statement, |expr| {
        if let ast::Expr::Value(value) = expr
            && let ast::Value::Placeholder(name) = &value.value
            && let Some(data_type) = parameter_index(name).and_then(|at| types.get(at)?.as_ref()).and_then(sql_type)
        {
            *expr = ast::Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(expr.clone()),
                data_type,
                array: false,
                format: None,
            };
        }
        ControlFlow::<()>::Continue(())
    });
}

/// Puts `values` in place of the parameters of `generate_series` and `range` in FROM, which are planned with them; where
/// none are given yet, what has their type. Gives the numbers from 0 of those that nothing says the type of: they are whole
/// numbers.
pub(super) fn fill_series(statement: &mut Statement, values: &[ScalarValue]) -> Vec<usize> {
    struct Series<'a>(&'a [ScalarValue], Vec<usize>);
    impl Series<'_> {
        fn fill(&mut self, expr: &mut ast::Expr, is_bare: bool) {
            match expr {
                ast::Expr::Value(value) => {
                    let ast::Value::Placeholder(name) = &value.value else { return };
                    let Some(at) = parameter_index(name) else { return };
                    let text = |value: &ScalarValue| match value.cast_to(&DataType::Utf8) {
                        Ok(ScalarValue::Utf8(text)) => text,
                        _ => None,
                    };
                    let filled = match self.0.get(at) {
                        Some(value) => match text(value) {
                            Some(text) if is_bare || value.data_type().is_numeric() => ast::Value::Number(text, false),
                            Some(text) => ast::Value::SingleQuotedString(text),
                            None => ast::Value::Null,
                        },
                        None if is_bare => ast::Value::Number("1".to_owned(), false),
                        None => ast::Value::Null,
                    };
                    if is_bare {
                        self.1.push(at);
                    }
                    *expr = ast::Expr::Nested(Box::new(ast::Expr::value(filled)));
                }
                ast::Expr::Cast { expr, .. } => self.fill(expr, false),
                ast::Expr::Nested(expr) | ast::Expr::UnaryOp { expr, .. } => self.fill(expr, is_bare),
                ast::Expr::BinaryOp { left, right, .. } => {
                    self.fill(left, is_bare);
                    self.fill(right, is_bare);
                }
                _ => {}
            }
        }
    }
    impl ast::VisitorMut for Series<'_> {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &mut ast::TableFactor) -> ControlFlow<()> {
            if let ast::TableFactor::Table { name, args: Some(arguments), .. } = factor
                && matches!(name.to_string().as_str(), "generate_series" | "range")
            {
                for argument in &mut arguments.args {
                    if let ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) = argument {
                        self.fill(expr, true);
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut series = Series(values, Vec::new());
    if let Some(statement) = plain(statement) {
        let _ = ast::VisitMut::visit(statement, &mut series);
    }
    series.1
}

/// Names of functions in FROM are in small letters, as all names are that nobody quotes.
pub(super) fn fold_table_functions(statement: &mut Statement) {
    struct Fold;
    impl ast::VisitorMut for Fold {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &mut ast::TableFactor) -> ControlFlow<()> {
            let name = match factor {
                ast::TableFactor::Table { name, args: Some(_), .. } | ast::TableFactor::Function { name, .. } => name,
                _ => return ControlFlow::Continue(()),
            };
            for part in &mut name.0 {
                if let ast::ObjectNamePart::Identifier(ident) = part
                    && ident.quote_style.is_none()
                {
                    ident.value.make_ascii_lowercase();
                }
            }
            ControlFlow::Continue(())
        }
    }
    if let Some(statement) = plain(statement) {
        let _ = ast::VisitMut::visit(statement, &mut Fold);
    }
}

/// Gives the names of tables that have no schema this one, where such a table `is_there`. Names of WITH stay.
pub(super) fn qualify(statement: &mut Statement, schema: &str, is_there: &dyn Fn(&str) -> bool) {
    struct Given(Vec<String>);
    impl ast::Visitor for Given {
        type Break = ();

        fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|with| &with.cte_tables);
            self.0.extend(tables.map(|table| folded(&table.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let Some(statement) = plain(statement) else { return };
    let mut given = Given(Vec::new());
    let _ = ast::Visit::visit(statement, &mut given);
    let given = given.0;
    let _ = ast::visit_relations_mut(statement, |name| {
        if let [ast::ObjectNamePart::Identifier(own)] = &name.0[..]
            && let own = folded(own)
            && !given.contains(&own)
            && is_there(&own)
        {
            name.0.insert(0, ast::ObjectNamePart::Identifier(ast::Ident::new(schema)));
        }
        ControlFlow::<()>::Continue(())
    });
}

/// A name as it counts: in small letters unless it is quoted.
fn folded(ident: &ast::Ident) -> String {
    if ident.quote_style.is_none() { ident.value.to_ascii_lowercase() } else { ident.value.clone() }
}

/// The statement of SQL itself, behind EXPLAIN too.
fn plain(statement: &mut Statement) -> Option<&mut ast::Statement> {
    match statement {
        Statement::Statement(statement) => Some(statement),
        Statement::Explain(explain) => plain(&mut explain.statement),
        _ => None,
    }
}

/// The index of the parameter `$n`, from 0.
pub(super) fn parameter_index(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// Names the columns of a SELECT that would have the name of one before them, which DataFusion refuses: `count(*)_1`.
pub(super) fn name_twins(statement: &mut Statement) {
    let Some(ast::Statement::Query(query)) = plain(statement) else { return };
    let ast::SetExpr::Select(select) = &mut *query.body else { return };
    // DataFusion names a cast after what is cast.
    fn name(expr: &ast::Expr) -> String {
        match expr {
            ast::Expr::Cast { expr, .. } | ast::Expr::Nested(expr) => name(expr),
            ast::Expr::Identifier(ident) => folded(ident),
            other => other.to_string().to_ascii_lowercase(),
        }
    }
    let mut names: Vec<String> = Vec::new();
    for item in &select.projection {
        match item {
            ast::SelectItem::UnnamedExpr(expr) => names.push(name(expr)),
            ast::SelectItem::ExprWithAlias { alias, .. } => names.push(folded(alias)),
            _ => {}
        }
    }
    let mut before: Vec<String> = Vec::new();
    for item in &mut select.projection {
        let ast::SelectItem::UnnamedExpr(expr) = item else { continue };
        let own = name(expr);
        if before.contains(&own) {
            let another = (1..).map(|n| format!("{own}_{n}")).find(|name| !names.contains(name)).unwrap_or_default();
            names.push(another.clone());
            let (expr, alias) = (expr.clone(), ast::Ident::with_quote('"', another));
            *item = ast::SelectItem::ExprWithAlias { expr, alias };
        }
        before.push(own);
    }
}

/// The name in SQL of a type that parameters have.
fn sql_type(data_type: &DataType) -> Option<ast::DataType> {
    Some(match data_type {
        DataType::Boolean => ast::DataType::Boolean,
        DataType::Int16 => ast::DataType::SmallInt(None),
        DataType::Int32 => ast::DataType::Integer(None),
        DataType::Int64 => ast::DataType::BigInt(None),
        DataType::Float32 => ast::DataType::Real,
        DataType::Float64 => ast::DataType::Double(ast::ExactNumberInfo::None),
        DataType::Date32 => ast::DataType::Date,
        DataType::Timestamp(_, None) => ast::DataType::Timestamp(Some(6), ast::TimezoneInfo::None),
        DataType::Timestamp(_, Some(_)) => ast::DataType::Timestamp(Some(6), ast::TimezoneInfo::WithTimeZone),
        DataType::Binary => ast::DataType::Bytea,
        DataType::Utf8 => ast::DataType::Varchar(None),
        _ => return None,
    })
}

/// The one statement of a text by itself, without comments and what ends it, so that it can stand inside another.
pub fn statement_text(sql: &str) -> Result<String> {
    Ok(parse(sql)?.statement.to_string())
}

/// Whether a statement begins with SUBSCRIBE: then its rows have no end.
pub fn is_subscription(sql: &str) -> bool {
    tokenize(sql).is_ok_and(|mut tokens| take_subscribe(&mut tokens))
}

/// Blanks out the word SUBSCRIBE at the beginning; true if it is there.
fn take_subscribe(tokens: &mut [TokenWithSpan]) -> bool {
    let first = tokens.iter_mut().find(|token| !matches!(token.token, Token::Whitespace(_)));
    let is = |word: &Word| word.quote_style.is_none() && word.value.eq_ignore_ascii_case("subscribe");
    match first {
        Some(first) if matches!(&first.token, Token::Word(word) if is(word)) => {
            first.token = Token::Whitespace(Whitespace::Space);
            true
        }
        _ => false,
    }
}

/// Script text cut at its semicolons.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// Statements that ended in `;`, without it.
    pub complete: Vec<String>,
    /// What follows the last `;`; empty if that is only blanks and comments.
    pub rest: String,
}

/// Cuts a script at the semicolons that end statements: not those in strings, quoted names or comments. An
/// unfinished string or comment is an error.
pub fn split(script: &str) -> Result<Script> {
    let mut complete = Vec::new();
    let (mut start, mut at, mut blank) = (0, Cursor::new(script), true);
    for token in tokenize(script)? {
        match token.token {
            Token::SemiColon => {
                let end = at.byte(token.span.start);
                if !blank {
                    complete.push(script[start..end].trim().to_owned());
                }
                (start, blank) = (end + 1, true);
            }
            Token::Whitespace(_) | Token::EOF => {}
            _ => blank = false,
        }
    }
    let rest = if blank { String::new() } else { script[start..].trim().to_owned() };
    Ok(Script { complete, rest })
}

/// Whether a token can make a tree deeper.
fn chains(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::IN
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::CASE
        ),
        Token::Whitespace(_)
        | Token::Comma
        | Token::Number(_, _)
        | Token::SingleQuotedString(_)
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::Placeholder(_)
        | Token::EOF => false,
        _ => true,
    }
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|e| error::syntax(&e.message, Some((e.location.line, e.location.column)), sql))
}

/// Numbers `?` from left to right; `$n` stays. Returns the highest number.
fn number_parameters(tokens: &mut [TokenWithSpan]) -> Result<usize> {
    let (mut unnamed, mut highest) = (0, 0);
    for token in tokens {
        let Token::Placeholder(name) = &mut token.token else { continue };
        if name == "?" {
            unnamed += 1;
            *name = format!("${unnamed}");
            continue;
        }
        match name.trim_start_matches(['$', '?']).parse::<usize>() {
            Ok(number @ 1..=PARAMETER_LIMIT) => {
                highest = highest.max(number);
                *name = format!("${number}");
            }
            _ => {
                return Err(Error::new(Kind::Query, format!("`{name}` is not a parameter"))
                    .hint("parameters are `?`, or numbered from `$1`"));
            }
        }
    }
    if unnamed > 0 && highest > 0 {
        return Err(Error::new(Kind::Query, "use `?` or `$1` for parameters, not both in one statement"));
    }
    if unnamed > PARAMETER_LIMIT {
        return Err(Error::new(Kind::Query, format!("more than {PARAMETER_LIMIT} parameters in one statement")));
    }
    Ok(highest.max(unnamed))
}

/// Byte offsets of ascending places in a text.
struct Cursor<'a> {
    text: &'a str,
    byte: usize,
    line: u64,
    column: u64,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, byte: 0, line: 1, column: 1 }
    }

    fn byte(&mut self, to: Location) -> usize {
        for char in self.text[self.byte..].chars() {
            if (self.line, self.column) >= (to.line, to.column) {
                break;
            }
            self.byte += char.len_utf8();
            (self.line, self.column) = if char == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        self.byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_where_statements_end() {
        let cases: [(&str, &[&str], &str); 8] = [
            ("", &[], ""),
            (" ;; \n; -- nothing\n", &[], ""),
            ("SELECT 1", &[], "SELECT 1"),
            ("SELECT 1;", &["SELECT 1"], ""),
            ("SELECT ';' ; SELECT 2", &["SELECT ';'"], "SELECT 2"),
            (
                "SELECT 'é;', \"a;b\" -- c;\n, 1; /* ; */ SELECT '빗;물'; x",
                &["SELECT 'é;', \"a;b\" -- c;\n, 1", "/* ; */ SELECT '빗;물'"],
                "x",
            ),
            ("SELECT $$ ; $$;", &["SELECT $$ ; $$"], ""),
            ("a;\r\nb;\r\n", &["a", "b"], ""),
        ];
        for (script, complete, rest) in cases {
            let cut = split(script).unwrap();
            assert_eq!(cut.complete, complete, "{script}");
            assert_eq!(cut.rest, rest, "{script}");
        }
        assert!(split("SELECT 'unfinished").is_err());
    }

    #[test]
    fn chains_have_an_end() {
        for (sql, is_long) in [
            (format!("SELECT 1{}", " + 1".repeat(1_900)), false),
            (format!("SELECT 1{}", " + 1".repeat(100_000)), true),
            (format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(100_000)), true),
            (format!("SELECT 1{}", "::int".repeat(100_000)), true),
            (format!("SELECT 1 WHERE 1 IN (1{})", ", 1".repeat(100_000)), false),
        ] {
            let refused = parse(&sql).err().is_some_and(|error| error.message().contains("operators"));
            assert_eq!(refused, is_long, "{}", &sql[..40]);
        }
    }

    #[test]
    fn parameters_are_numbered_from_left_to_right() {
        let text = |sql: &str| parse(sql).map(|p| (p.statement.to_string(), p.parameters));
        assert_eq!(text("SELECT ?, '?', ? -- ?").unwrap(), ("SELECT $1, '?', $2".to_owned(), 2));
        assert_eq!(text("SELECT $2, $1, $2").unwrap(), ("SELECT $2, $1, $2".to_owned(), 2));
        assert_eq!(text("SELECT \"?\"").unwrap().1, 0);
        for wrong in ["SELECT ?, $1", "SELECT $name", "SELECT $0", "SELECT $99999999"] {
            assert_eq!(parse(wrong).err().unwrap().kind(), Kind::Query, "{wrong}");
        }
    }
}
