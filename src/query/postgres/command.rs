//! Statements that a PostgreSQL client sends about its connection rather than about rows: transactions, settings, cursors,
//! `COPY … TO STDOUT`. They are read here, with PostgreSQL's grammar; the door carries them out.

use datafusion::sql::sqlparser::ast::{
    self, CloseCursor, CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget, DiscardObject, Expr,
    Reset, Set, Statement,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::{Error, Kind, Result};

/// What a client wants of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// BEGIN, START TRANSACTION
    Begin,
    /// COMMIT, END
    Commit,
    /// ROLLBACK, ABORT
    Rollback,
    /// SAVEPOINT, RELEASE, ROLLBACK TO: nothing is written, so nothing is to be taken back. Its tag.
    Savepoint(&'static str),
    /// SET; no value is the default.
    Set {
        /// The option.
        name: String,
        /// Its text.
        value: Option<String>,
        /// To the end of the transaction only.
        local: bool,
    },
    /// SET TRANSACTION, SET SESSION CHARACTERISTICS: all are read-only and see what is committed.
    SetTransaction,
    /// RESET ALL
    ResetAll,
    /// SHOW; `None` is ALL.
    Show(Option<String>),
    /// DISCARD ALL and its parts.
    Discard {
        /// Settings, cursors and prepared statements too.
        all: bool,
    },
    /// DEALLOCATE; `None` is ALL.
    Deallocate(Option<String>),
    /// DECLARE … CURSOR FOR
    Declare {
        /// The cursor.
        name: String,
        /// It outlives its transaction.
        hold: bool,
        /// Its query.
        query: String,
    },
    /// FETCH forward.
    Fetch {
        /// The cursor.
        name: String,
        /// Rows; `None` is ALL.
        count: Option<u64>,
        /// MOVE: the rows are not shown.
        skip: bool,
    },
    /// CLOSE; `None` is ALL.
    Close(Option<String>),
    /// UNLISTEN: nobody is told anything here.
    Unlisten,
    /// COPY … TO STDOUT
    Copy {
        /// Its query.
        query: String,
        /// How rows are written.
        form: CopyForm,
    },
}

/// How COPY writes rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyForm {
    /// The format.
    pub format: CopyFormat,
    /// A first line of names.
    pub header: bool,
    /// Between columns.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    /// Around values of CSV that need it.
    pub quote: u8,
    /// Before a quote within quotes.
    pub escape: u8,
    /// Columns whose values are always quoted; `*` is all.
    pub force_quote: Vec<String>,
}

/// A format of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Lines with tabs.
    Text,
    /// Comma-separated values.
    Csv,
    /// Length and bytes.
    Binary,
}

/// The command that a text is; `None` if it is about rows.
pub fn command(sql: &str) -> Result<Option<Command>> {
    let dialect = PostgreSqlDialect {};
    // What cannot be cut into words is told by who plans it.
    let Ok(tokens) = Tokenizer::new(&dialect, sql).tokenize() else { return Ok(None) };
    let mut words = tokens.iter().filter_map(|token| match token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
        _ => Some(Keyword::NoKeyword),
    });
    let first = words.next();
    match first {
        Some(Keyword::ABORT) => return Ok(Some(Command::Rollback)),
        Some(Keyword::FETCH) => return fetch(&tokens, false).map(Some),
        _ if starts_with(&tokens, "move") => return fetch(&tokens, true).map(Some),
        Some(Keyword::UNLISTEN) => return Ok(Some(Command::Unlisten)),
        // The parser wants a name or ALL behind it; PREPARE between is optional.
        Some(
            Keyword::BEGIN
            | Keyword::START
            | Keyword::COMMIT
            | Keyword::END
            | Keyword::ROLLBACK
            | Keyword::SAVEPOINT
            | Keyword::RELEASE
            | Keyword::SET
            | Keyword::RESET
            | Keyword::SHOW
            | Keyword::DISCARD
            | Keyword::DEALLOCATE
            | Keyword::DECLARE
            | Keyword::CLOSE
            | Keyword::COPY,
        ) => {}
        _ => return Ok(None),
    }
    if first == Some(Keyword::SHOW)
        && matches!(words.next(), Some(Keyword::TABLES | Keyword::COLUMNS | Keyword::FUNCTIONS))
    {
        return Ok(None);
    }
    let parsed = Parser::new(&dialect).with_tokens(tokens).parse_statements();
    let mut statements = parsed.map_err(|error| {
        let text = error.to_string();
        Error::new(Kind::Query, format!("syntax error: {}", text.trim_start_matches("sql parser error: ")))
    })?;
    match statements.pop() {
        Some(statement) if statements.is_empty() => of_statement(statement),
        _ => Err(Error::new(Kind::Query, "syntax error: one statement at a time")),
    }
}

/// Whether the first word is `word`, which is no keyword of the parser.
fn starts_with(tokens: &[Token], word: &str) -> bool {
    let first = tokens.iter().find(|token| !matches!(token, Token::Whitespace(_)));
    matches!(first, Some(Token::Word(found)) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

fn of_statement(statement: Statement) -> Result<Option<Command>> {
    Ok(Some(match statement {
        Statement::StartTransaction { .. } => Command::Begin,
        Statement::Commit { .. } => Command::Commit,
        Statement::Rollback { savepoint: Some(_), .. } => Command::Savepoint("ROLLBACK"),
        Statement::Rollback { .. } => Command::Rollback,
        Statement::Savepoint { .. } => Command::Savepoint("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => Command::Savepoint("RELEASE"),
        Statement::Set(set) => of_set(set)?,
        Statement::Reset(reset) => match reset.reset {
            Reset::ALL => Command::ResetAll,
            Reset::ConfigurationParameter(name) => Command::Set { name: plain(&name), value: None, local: false },
        },
        Statement::ShowVariable { variable } => {
            let words: Vec<&str> = variable.iter().map(|word| word.value.as_str()).collect();
            let name = match &words.join(" ").to_ascii_lowercase()[..] {
                "transaction isolation level" => "transaction_isolation".to_owned(),
                "time zone" => "timezone".to_owned(),
                _ => words.join("."),
            };
            Command::Show((!name.eq_ignore_ascii_case("all")).then_some(name))
        }
        Statement::Discard { object_type } => Command::Discard { all: object_type == DiscardObject::ALL },
        Statement::Deallocate { name, .. } => {
            Command::Deallocate(if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all") {
                None
            } else {
                Some(folded(&name))
            })
        }
        Statement::Declare { mut stmts } => match (stmts.pop(), stmts.is_empty()) {
            (Some(ast::Declare { names, for_query: Some(query), scroll, hold, .. }), true) => {
                if scroll == Some(true) {
                    return Err(refused("SCROLL cursors").hint("cursors go forward only"));
                }
                let name = names.first().map(folded).unwrap_or_default();
                Command::Declare { name, hold: hold == Some(true), query: query.to_string() }
            }
            _ => return Err(refused("this DECLARE")),
        },
        Statement::Close { cursor: CloseCursor::All } => Command::Close(None),
        Statement::Close { cursor: CloseCursor::Specific { name } } => Command::Close(Some(folded(&name))),
        Statement::Copy { source, to, target, options, legacy_options, .. } => {
            if !to || target != CopyTarget::Stdout {
                let text = "COPY is allowed to STDOUT only: SQL reads here and changes nothing";
                return Err(Error::new(Kind::Denied, text)
                    .hint("COPY (SELECT …) TO STDOUT, or \\copy in psql, which writes the file on your side"));
            }
            let query = match source {
                CopySource::Query(query) => query.to_string(),
                CopySource::Table { table_name, columns } => {
                    let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
                    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
                    format!("SELECT {columns} FROM {table_name}")
                }
            };
            Command::Copy { query, form: copy_form(options, legacy_options)? }
        }
        _ => return Ok(None),
    }))
}

fn of_set(set: Set) -> Result<Command> {
    Ok(match set {
        Set::SingleAssignment { scope, variable, values, .. } => {
            let local = scope == Some(ast::ContextModifier::Local);
            let values: Vec<String> = values.iter().map(text).collect();
            let is_default = matches!(&values[..], [word] if word.eq_ignore_ascii_case("default"));
            let value = (!is_default).then(|| values.join(", "));
            Command::Set { name: plain(&variable), value, local }
        }
        Set::SetTimeZone { local, value } => {
            let value = text(&value);
            let is_default = ["default", "local"].iter().any(|word| value.eq_ignore_ascii_case(word));
            Command::Set { name: "timezone".to_owned(), value: (!is_default).then_some(value), local }
        }
        Set::SetNames { charset_name, .. } => {
            Command::Set { name: "client_encoding".to_owned(), value: Some(charset_name.value), local: false }
        }
        Set::SetNamesDefault {} => Command::Set { name: "client_encoding".to_owned(), value: None, local: false },
        Set::SetTransaction { .. } => Command::SetTransaction,
        Set::SetSessionAuthorization(ast::SetSessionAuthorizationParam {
            kind: ast::SetSessionAuthorizationParamKind::Default,
            ..
        })
        | Set::SetRole { role_name: None, .. } => Command::SetTransaction,
        other => return Err(refused(&other.to_string())),
    })
}

/// FETCH or MOVE: how far, and in which cursor. (The parser wants a number always.)
fn fetch(tokens: &[Token], skip: bool) -> Result<Command> {
    let wrong = || Error::new(Kind::Query, "syntax error: expected FETCH [FORWARD] [count | ALL] FROM and a cursor");
    let is = |token: &Token, word: &str| matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
    let mut words = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::SemiColon | Token::EOF))
        .skip(1)
        .peekable();
    if words.peek().is_some_and(|token| {
        ["prior", "last", "first", "absolute", "relative", "backward"].iter().any(|word| is(token, word))
    }) {
        return Err(refused("FETCH backwards or to a place").hint("cursors go forward only"));
    }
    let mut count = Some(1);
    if words.next_if(|token| is(token, "next")).is_none() {
        let _ = words.next_if(|token| is(token, "forward"));
        if words.next_if(|token| is(token, "all")).is_some() {
            count = None;
        } else if let Some(Token::Number(number, _)) = words.next_if(|token| matches!(token, Token::Number(_, _))) {
            count = Some(number.parse().map_err(|_| wrong())?);
        }
    }
    let _ = words.next_if(|token| is(token, "from") || is(token, "in"));
    match (words.next(), words.next()) {
        (Some(Token::Word(name)), None) => {
            let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() };
            Ok(Command::Fetch { name, count, skip })
        }
        _ => Err(wrong()),
    }
}

fn copy_form(options: Vec<CopyOption>, legacy: Vec<CopyLegacyOption>) -> Result<CopyForm> {
    let (mut format, mut header, mut delimiter, mut null) = (CopyFormat::Text, false, None, None);
    let (mut quote, mut escape, mut force_quote) = ('"', None, Vec::new());
    for option in options {
        match option {
            CopyOption::Format(name) => {
                format = match name.value.to_ascii_lowercase().as_str() {
                    "text" => CopyFormat::Text,
                    "csv" => CopyFormat::Csv,
                    "binary" => CopyFormat::Binary,
                    other => return Err(Error::new(Kind::Query, format!("COPY format \"{other}\" not recognized"))),
                }
            }
            CopyOption::Delimiter(char) => delimiter = Some(char),
            CopyOption::Null(text) => null = Some(text),
            CopyOption::Header(on) => header = on,
            CopyOption::Quote(char) => quote = char,
            CopyOption::Escape(char) => escape = Some(char),
            CopyOption::ForceQuote(columns) => force_quote = columns.iter().map(folded).collect(),
            CopyOption::Encoding(name) if is_utf8(&name) => {}
            other => return Err(refused(&format!("COPY with {other}"))),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Binary => format = CopyFormat::Binary,
            CopyLegacyOption::Delimiter(char) => delimiter = Some(char),
            CopyLegacyOption::Null(text) => null = Some(text),
            CopyLegacyOption::Header => header = true,
            CopyLegacyOption::Csv(options) => {
                format = CopyFormat::Csv;
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => header = true,
                        CopyLegacyCsvOption::Quote(char) => quote = char,
                        CopyLegacyCsvOption::Escape(char) => escape = Some(char),
                        CopyLegacyCsvOption::ForceQuote(columns) => force_quote = columns.iter().map(folded).collect(),
                        other => return Err(refused(&format!("COPY with {other}"))),
                    }
                }
            }
            other => return Err(refused(&format!("COPY with {other}"))),
        }
    }
    let byte = |what: &str, char: char| match u8::try_from(char) {
        Ok(byte) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(byte),
        _ => Err(Error::new(Kind::Query, format!("COPY {what} must be a single one-byte character"))),
    };
    let csv = format == CopyFormat::Csv;
    Ok(CopyForm {
        format,
        header,
        delimiter: byte("delimiter", delimiter.unwrap_or(if csv { ',' } else { '\t' }))?,
        null: null.unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() }),
        quote: byte("quote", quote)?,
        escape: byte("escape", escape.unwrap_or(quote))?,
        force_quote,
    })
}

/// Whether a client's name of an encoding is ours.
pub fn is_utf8(name: &str) -> bool {
    let name = name.trim_matches(['\'', '"', ' ']).to_ascii_lowercase().replace('-', "");
    matches!(name.as_str(), "utf8" | "unicode" | "sql_ascii")
}

fn refused(what: &str) -> Error {
    Error::new(Kind::Denied, format!("{what} is not offered here"))
}

fn plain(name: &ast::ObjectName) -> String {
    name.to_string().replace(['"', '`'], "")
}

/// A name as PostgreSQL takes it: in small letters unless it is quoted.
fn folded(name: &ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

fn text(value: &Expr) -> String {
    match value {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) | ast::Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<Command> {
        command(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn set(name: &str, value: &str) -> Option<Command> {
        Some(Command::Set { name: name.into(), value: Some(value.into()), local: false })
    }

    #[test]
    fn what_clients_say_about_their_connection_is_understood() {
        for begin in [
            "BEGIN",
            "begin transaction",
            "START TRANSACTION READ ONLY",
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        ] {
            assert_eq!(of(begin), Some(Command::Begin), "{begin}");
        }
        assert_eq!(of("COMMIT"), Some(Command::Commit));
        assert_eq!(of("END"), Some(Command::Commit));
        assert_eq!(of("ABORT"), Some(Command::Rollback));
        assert_eq!(of("ROLLBACK TO SAVEPOINT \"a\""), Some(Command::Savepoint("ROLLBACK")));
        assert_eq!(of("RELEASE SAVEPOINT a"), Some(Command::Savepoint("RELEASE")));
        assert_eq!(of("SET extra_float_digits = 3"), set("extra_float_digits", "3"));
        assert_eq!(
            of("SET application_name = 'PostgreSQL JDBC Driver'"),
            set("application_name", "PostgreSQL JDBC Driver")
        );
        assert_eq!(of("SET search_path TO public, \"system\""), set("search_path", "public, system"));
        assert_eq!(of("SET TIME ZONE 'Asia/Seoul'"), set("timezone", "Asia/Seoul"));
        assert_eq!(of("SET NAMES 'UTF8'"), set("client_encoding", "UTF8"));
        assert_eq!(of("SET DateStyle=ISO"), set("DateStyle", "ISO"));
        assert_eq!(of("SET SESSION AUTHORIZATION DEFAULT"), Some(Command::SetTransaction));
        let back = Some(Command::Set { name: "statement_timeout".into(), value: None, local: false });
        assert_eq!(of("set statement_timeout to default"), back);
        assert_eq!(of("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), Some(Command::SetTransaction));
        assert_eq!(of("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"), Some(Command::SetTransaction));
        assert_eq!(of("SHOW TRANSACTION ISOLATION LEVEL"), Some(Command::Show(Some("transaction_isolation".into()))));
        assert_eq!(of("SHOW ALL"), Some(Command::Show(None)));
        assert_eq!(of("SHOW TABLES"), None);
        assert_eq!(of("RESET ALL"), Some(Command::ResetAll));
        assert_eq!(of("DISCARD ALL"), Some(Command::Discard { all: true }));
        assert_eq!(of("DEALLOCATE ALL"), Some(Command::Deallocate(None)));
        assert_eq!(of("DEALLOCATE PREPARE \"S_1\""), Some(Command::Deallocate(Some("S_1".into()))));
        assert_eq!(of("CLOSE ALL"), Some(Command::Close(None)));
        assert_eq!(of("UNLISTEN *"), Some(Command::Unlisten));
        assert_eq!(of("SELECT 1"), None);
        assert_eq!(of("-- only a comment"), None);
    }

    #[test]
    fn cursors_go_forward() {
        let declared = of("DECLARE \"x y\" NO SCROLL CURSOR WITH HOLD FOR SELECT 1 AS a");
        assert_eq!(declared, Some(Command::Declare { name: "x y".into(), hold: true, query: "SELECT 1 AS a".into() }));
        let fetch = |name: &str, count, skip| Some(Command::Fetch { name: name.into(), count, skip });
        assert_eq!(of("FETCH FORWARD 100 FROM \"x y\""), fetch("x y", Some(100), false));
        assert_eq!(of("fetch 7 in C"), fetch("c", Some(7), false));
        assert_eq!(of("FETCH ALL FROM c"), fetch("c", None, false));
        for one in ["FETCH NEXT FROM c", "FETCH c", "FETCH FROM c", "FETCH FORWARD IN c;"] {
            assert_eq!(of(one), fetch("c", Some(1), false), "{one}");
        }
        assert_eq!(of("MOVE ALL IN c"), fetch("c", None, true));
        assert_eq!(of("FETCH FORWARD ALL IN c"), fetch("c", None, false));
        assert_eq!(of("MOVE FORWARD 3 FROM c"), fetch("c", Some(3), true));
        for wrong in ["FETCH BACKWARD 2 FROM c", "FETCH", "FETCH 1 FROM a b", "FETCH -1 FROM c", "FETCH LAST FROM c"] {
            assert!(command(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn copy_goes_to_the_client_and_nowhere_else() {
        let Some(Command::Copy { query, form }) = of("COPY  ( SELECT a FROM t ) TO STDOUT csv header") else {
            panic!()
        };
        assert_eq!((query.as_str(), form.format, form.header), ("SELECT a FROM t", CopyFormat::Csv, true));
        let Some(Command::Copy { query, form }) = of("COPY t (a, \"B\") TO STDOUT WITH (FORMAT binary)") else {
            panic!()
        };
        assert_eq!((query.as_str(), form.format), ("SELECT a, \"B\" FROM t", CopyFormat::Binary));
        let Some(Command::Copy { form, .. }) = of("COPY t TO STDOUT (DELIMITER '|', NULL '-')") else { panic!() };
        assert_eq!((form.format, form.delimiter, form.null.as_str()), (CopyFormat::Text, b'|', "-"));
        for wrong in
            ["COPY t FROM STDIN", "COPY t TO '/tmp/x'", "COPY (SELECT 1) TO PROGRAM 'sh'", "COPY t FROM '/etc/passwd'"]
        {
            assert!(command(wrong).is_err(), "{wrong}");
        }
    }
}
