//! `${NAME}` and `${file:/path}` in the texts of TOML files; `$${` writes a literal `${`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::problem::Complaint;

/// Where replacements come from.
pub(super) struct Interpolation<'a> {
    pub vars: &'a BTreeMap<String, String>,
    /// Relative files are looked up here: the project's folder.
    pub dir: &'a Path,
}

impl Interpolation<'_> {
    /// The text with everything replaced, or all that is wrong with it. What was put in is not read again.
    pub fn apply(&self, text: &str) -> Result<String, Vec<Complaint>> {
        let mut out = String::with_capacity(text.len());
        let mut complaints = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &from[2..];
                continue;
            }
            out.push_str(before);
            let Some(end) = from.find('}') else {
                complaints.push(Complaint::new("`${` is not closed by `}`").hint("write `$${` for a literal `${`"));
                rest = "";
                break;
            };
            match self.replacement(&from[2..end]) {
                Ok(value) => out.push_str(&value),
                Err(complaint) => complaints.push(complaint),
            }
            rest = &from[end + 1..];
        }
        out.push_str(rest);
        if complaints.is_empty() { Ok(out) } else { Err(complaints) }
    }

    fn replacement(&self, name: &str) -> Result<String, Complaint> {
        if let Some(path) = name.strip_prefix("file:") {
            let path: PathBuf = self.dir.join(path);
            return match std::fs::read_to_string(&path) {
                Ok(content) => Ok(content.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => Err(Complaint::new(format!("cannot read `{}`: {error}", path.display()))),
            };
        }
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            return Err(Complaint::new(format!("`${{{name}}}` is neither `${{NAME}}` nor `${{file:/path}}`"))
                .hint("write `$${` for a literal `${`"));
        }
        self.vars
            .get(name)
            .cloned()
            .ok_or_else(|| Complaint::new(format!("the environment variable `{name}` is not set")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_complains() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cr${HOST}\n").unwrap();
        let vars = BTreeMap::from([("HOST".to_owned(), "broker".to_owned()), ("EMPTY".to_owned(), String::new())]);
        let interpolation = Interpolation { vars: &vars, dir: dir.path() };
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOST}:9092", "broker:9092"),
            ("a${HOST}b${HOST}${EMPTY}", "abrokerbbroker"),
            ("$key.$topic {column} $", "$key.$topic {column} $"),
            ("$${HOST} and ${HOST}", "${HOST} and broker"),
            ("${file:secret}", "s3cr${HOST}"),
        ] {
            assert_eq!(interpolation.apply(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            (
                "${NOPE} ${NADA}",
                vec!["the environment variable `NOPE` is not set", "the environment variable `NADA` is not set"],
            ),
            ("${HOST", vec!["`${` is not closed by `}`"]),
            ("${}", vec!["`${}` is neither `${NAME}` nor `${file:/path}`"]),
            ("${HOST:-x}", vec!["`${HOST:-x}` is neither `${NAME}` nor `${file:/path}`"]),
        ] {
            let messages: Vec<String> = interpolation.apply(text).unwrap_err().into_iter().map(|c| c.message).collect();
            assert_eq!(messages, expected, "{text}");
        }
        let missing = interpolation.apply("${file:/no/such/file}").unwrap_err();
        assert!(missing[0].message.starts_with("cannot read `/no/such/file`: "), "{missing:?}");
    }
}
