//! What statements of people say in PostgreSQL's words: patterns with an escape, formats of times, `mod`, the epoch.

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, TimezoneInfo,
};

use super::rewrite::{call, null, words};

/// Puts one expression into DataFusion's words.
pub(super) fn translate(expr: &mut Expr) {
    match expr {
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            like(pattern, escape_char)
        }
        Expr::Function(function) => {
            if let Some(changed) = modulo(function).or_else(|| time(function)) {
                *expr = changed;
            }
        }
        Expr::TypedString(typed) => {
            if let ast::Value::SingleQuotedString(text) = &mut typed.value.value
                && matches!(typed.data_type, DataType::Timestamp(..))
                && text.eq_ignore_ascii_case("epoch")
            {
                "1970-01-01 00:00:00".clone_into(text);
            }
        }
        _ => {}
    }
}

fn arguments(function: &mut Function) -> Option<&mut [FunctionArg]> {
    match &mut function.args {
        FunctionArguments::List(list) => Some(&mut list.args),
        _ => None,
    }
}

/// `to_char`, `to_date` and `to_timestamp` with a format of PostgreSQL's.
fn time(function: &mut Function) -> Option<Expr> {
    let name = words(&function.name).pop()?;
    if !matches!(name.as_str(), "to_char" | "to_date" | "to_timestamp") {
        return None;
    }
    let [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(format)))] = arguments(function)? else {
        return None;
    };
    let ast::Value::SingleQuotedString(text) = &mut format.value else { return None };
    *text = format_of(text)?;
    // A time with its zone, that of the session.
    (name == "to_timestamp").then(|| Expr::Cast {
        kind: ast::CastKind::Cast,
        expr: Box::new(Expr::Function(function.clone())),
        data_type: DataType::Timestamp(None, TimezoneInfo::WithTimeZone),
        array: false,
        format: None,
    })
}

/// What `strftime` has nothing for.
const UNKNOWN: [&str; 5] = ["SSSS", "IDDD", "WW", "CC", "RM"];
/// PostgreSQL's patterns, longer ones before their beginnings, and those of `strftime`. Names of days and months are written
/// with one capital, however the pattern is.
const PATTERNS: [(&str, &str); 29] = [
    ("YYYY", "%Y"),
    ("IYYY", "%G"),
    ("YY", "%y"),
    ("MONTH", "%B"),
    ("MON", "%b"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("DAY", "%A"),
    ("DDD", "%j"),
    ("DD", "%d"),
    ("DY", "%a"),
    ("ID", "%u"),
    ("IW", "%V"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("FF3", "%3f"),
    ("FF6", "%6f"),
    ("A.M.", "%p"),
    ("P.M.", "%p"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("TZH:TZM", "%:z"),
    ("TZ", "%Z"),
    ("OF", "%:z"),
    ("Q", "%q"),
];

/// A format of PostgreSQL's as one of `strftime`; `None` if it is one already, or none of a time.
pub(super) fn format_of(text: &str) -> Option<String> {
    let strftime = |(at, _): (usize, &str)| {
        text[at + 1..].starts_with(|next: char| next.is_ascii_alphabetic() || "-_0.:".contains(next))
    };
    if text.match_indices('%').any(strftime) {
        return None;
    }
    let (mut out, mut rest, mut is_time) = (String::new(), text, false);
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            out.push_str(&quoted[..end]);
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        let begins = |text: &str, with: &str| text.get(..with.len()).is_some_and(|own| own.eq_ignore_ascii_case(with));
        let (bare, fill) = if begins(rest, "FM") { (&rest[2..], "-") } else { (rest, "") };
        let timezone_hours = begins(bare, "TZH") && !begins(bare, "TZH:TZM");
        if timezone_hours || UNKNOWN.iter().any(|pattern| begins(bare, pattern)) {
            return None;
        }
        if let Some((pattern, strftime)) = PATTERNS.iter().find(|(pattern, _)| begins(bare, pattern)) {
            let is_small = *strftime == "%p" && bare.starts_with(|first: char| first.is_ascii_lowercase());
            let strftime = if is_small { "%P" } else { strftime };
            let is_number = matches!(strftime, "%d" | "%m" | "%H" | "%I" | "%M" | "%S" | "%j");
            out.push('%');
            out.push_str(if is_number { fill } else { "" });
            out.push_str(&strftime[1..]);
            (rest, is_time) = (&bare[pattern.len()..], true);
            continue;
        }
        let mut chars = rest.chars();
        let plain = chars.next();
        out.extend(plain);
        // One that stands for itself.
        out.extend(plain.filter(|char| *char == '%'));
        rest = chars.as_str();
    }
    is_time.then_some(out)
}

/// `mod(a, b)` as `a % b`.
fn modulo(function: &Function) -> Option<Expr> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let operand = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(Box::new(Expr::Nested(Box::new(expr.clone())))),
        _ => None,
    };
    match &list.args[..] {
        [left, right] if words(&function.name) == ["mod"] => {
            let (left, right) = (operand(left)?, operand(right)?);
            Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Modulo, right })))
        }
        _ => None,
    }
}

/// A pattern of LIKE whose escape is another than the backslash.
fn escaped(pattern: &str, escape: char) -> String {
    let (mut out, mut chars) = (String::new(), pattern.chars());
    while let Some(char) = chars.next() {
        if char == escape {
            out.push('\\');
            out.extend(chars.next());
        } else if char == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(char);
        }
    }
    out
}

fn like(pattern: &mut Expr, escape: &mut Option<ast::ValueWithSpan>) {
    let Some(ast::Value::SingleQuotedString(by)) = escape.as_ref().map(|value| &value.value) else { return };
    let mut chars = by.chars();
    let by = match (chars.next(), chars.next()) {
        // It is the backslash anyhow.
        (Some('\\'), None) => {
            *escape = None;
            return;
        }
        (by, None) => by,
        _ => return,
    };
    if let Expr::Value(value) = pattern
        && let ast::Value::SingleQuotedString(text) = &mut value.value
    {
        *text = match by {
            Some(char) => escaped(text, char),
            // Nothing is escaped.
            None => text.replace('\\', "\\\\"),
        };
    } else {
        let text = |text: String| Expr::value(ast::Value::SingleQuotedString(text));
        let replace = |of: Expr, from: String, to: &str| call("replace", vec![of, text(from), text(to.to_owned())]);
        let mut changed = Expr::Nested(Box::new(std::mem::replace(pattern, null())));
        if let Some(by) = by {
            // Escaped escapes stand aside while the others change.
            changed = replace(changed, format!("{by}{by}"), "\u{1}");
            changed = replace(changed, "\\".to_owned(), "\\\\");
            changed = replace(changed, by.to_string(), "\\");
            changed = replace(changed, "\u{1}".to_owned(), &by.to_string());
        } else {
            changed = replace(changed, "\\".to_owned(), "\\\\");
        }
        *pattern = changed;
    }
    *escape = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_times_are_those_of_strftime() {
        for (postgres, strftime) in [
            ("YYYY-MM-DD HH24:MI:SS.US", Some("%Y-%m-%d %H:%M:%S.%6f")),
            ("yyyy/mm", Some("%Y/%m")),
            ("FMMonth FMDD, YYYY", Some("%B %-d, %Y")),
            ("Dy, DD Mon YYYY HH12:MI AM", Some("%a, %d %b %Y %I:%M %p")),
            ("YYYY-\"W\"IW", Some("%Y-W%V")),
            ("\"Q\"Q YYYY", Some("Q%q %Y")),
            ("HH24\"h", Some("%Hh")),
            ("HH12:MI am", Some("%I:%M %P")),
            ("HH24:MI %", Some("%H:%M %%")),
            ("YYYY SSSSS", None),
            ("HH24 TZH", None),
            ("%Y-%m", None),
            ("999,990.00", None),
            ("", None),
        ] {
            assert_eq!(format_of(postgres).as_deref(), strftime, "{postgres}");
        }
    }
}
