//! Decimals as PostgreSQL writes them. They come as the digits of the unscaled number, of any length.

/// Digits of one group of the binary form.
const GROUP: usize = 4;
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;

/// The text of `unscaled` × 10^−`scale`.
pub(super) fn text(unscaled: &str, scale: i8) -> String {
    let (sign, digits) = split(unscaled);
    match usize::try_from(scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, part) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{part}")
        }
        Err(_) if digits == "0" => "0".to_owned(),
        Err(_) => format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs()))),
    }
}

/// Appends the binary form of `unscaled` × 10^−`scale` (`numeric_send`): count of groups of four decimal digits, weight of
/// the first, sign, digits behind the point, groups.
pub(super) fn binary(unscaled: &str, scale: i8, out: &mut Vec<u8>) {
    let text = text(unscaled, scale);
    let (sign, text) = split(&text);
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let before = whole.len().div_ceil(GROUP);
    let digits = format!(
        "{whole:0>whole_width$}{part:0<part_width$}",
        whole_width = before * GROUP,
        part_width = part.len().div_ceil(GROUP) * GROUP
    );
    let groups: Vec<u16> = digits.as_bytes().chunks(GROUP).map(group).collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let trailing = groups[leading..].iter().rev().take_while(|group| **group == 0).count();
    let kept = &groups[leading..groups.len() - trailing];
    let weight = if kept.is_empty() { 0 } else { before as i16 - 1 - leading as i16 };
    out.extend((kept.len() as u16).to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(if sign.is_empty() || kept.is_empty() { POSITIVE } else { NEGATIVE }.to_be_bytes());
    out.extend((part.len() as u16).to_be_bytes());
    kept.iter().for_each(|group| out.extend(group.to_be_bytes()));
}

/// The text of a binary form; `None` if it is none, or no number.
pub(super) fn from_binary(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign, scale) = (words.next()?, words.next()? as i16, words.next()?, words.next()?);
    let groups: Vec<u16> = words.collect();
    let is_whole = bytes.len() == 8 + groups.len() * 2 && groups.len() == usize::from(count);
    // What no decimal of ours could hold need not be written out.
    if !is_whole || !matches!(sign, POSITIVE | NEGATIVE) || scale > 1_000 || !(-256..=256).contains(&weight) {
        return None;
    }
    let at = |index: i32| usize::try_from(index).ok().and_then(|index| groups.get(index)).copied().unwrap_or(0);
    let weight = i32::from(weight);
    let mut text: String = (0..=weight).map(|index| format!("{:04}", at(index))).collect();
    text = text.trim_start_matches('0').to_owned();
    if text.is_empty() {
        text.push('0');
    }
    if scale > 0 {
        let part: String =
            (1..=i32::from(scale.div_ceil(GROUP as u16))).map(|index| format!("{:04}", at(weight + index))).collect();
        text = format!("{text}.{}", &part[..usize::from(scale)]);
    }
    Some(if sign == NEGATIVE { format!("-{text}") } else { text })
}

fn split(number: &str) -> (&str, &str) {
    match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
    }
}

fn group(digits: &[u8]) -> u16 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_postgresqls() {
        let cases = [
            ("12345", 2, "123.45"),
            ("-5", 3, "-0.005"),
            ("0", 2, "0.00"),
            ("7", -2, "700"),
            ("0", -2, "0"),
            ("-1", 0, "-1"),
        ];
        for (unscaled, scale, wanted) in cases {
            assert_eq!(text(unscaled, scale), wanted);
        }
    }

    #[test]
    fn bytes_are_postgresqls() {
        // As PostgreSQL 15 sends 123.45, -0.00012 and 100000000.
        let cases: [(&str, i8, &[u16]); 3] = [
            ("12345", 2, &[2, 0, 0, 2, 123, 4500]),
            ("-12", 5, &[2, 0xffff, 0x4000, 5, 1, 2000]),
            ("100000000", 0, &[1, 2, 0, 0, 1]),
        ];
        for (unscaled, scale, words) in cases {
            let mut out = Vec::new();
            binary(unscaled, scale, &mut out);
            let wanted: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            assert_eq!(out, wanted, "{unscaled} {scale}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_number(unscaled: i128, scale in 0i8..38) {
            let mut out = Vec::new();
            binary(&unscaled.to_string(), scale, &mut out);
            prop_assert_eq!(from_binary(&out).unwrap(), text(&unscaled.to_string(), scale));
        }

        #[test]
        fn whatever_comes_is_a_number_or_none(bytes: Vec<u8>) {
            let _ = from_binary(&bytes);
        }
    }
}
