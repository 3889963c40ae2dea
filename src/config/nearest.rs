//! Finds what a person probably meant.

/// The candidate nearest to `word`, if it is near enough to be a typing mistake.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let limit = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase().chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insert, delete, replace, swap of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut cells: Vec<usize> = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let at = |i: usize, j: usize| cells[i * width + j];
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = at(i - 1, j - 1) + usize::from(a[i - 1] != b[j - 1]);
                let edited = replaced.min(at(i - 1, j) + 1).min(at(i, j - 1) + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    edited.min(at(i - 2, j - 2) + 1)
                } else {
                    edited
                }
            };
            cells[i * width + j] = cost;
        }
    }
    cells[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_typing_mistakes_and_nothing_else() {
        let words = ["brokers", "auth", "properties", "commit_interval", "url"];
        for (word, expected) in [
            ("broker", Some("brokers")),
            ("borkers", Some("brokers")),
            ("Auth", Some("auth")),
            ("commit_intervall", Some("commit_interval")),
            ("commitinterval", Some("commit_interval")),
            ("uri", Some("url")),
            ("topic", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }
}
