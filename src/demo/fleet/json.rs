//! A JSON writer for messages whose names are known and need no escaping: a few hundred nanoseconds each.

/// Text of one JSON object being written.
pub struct Json {
    text: Vec<u8>,
    /// Measured numbers still to be written before one comes out as `"<invalid>"`.
    until_invalid: Option<usize>,
    digits: itoa::Buffer,
}

impl Json {
    /// An open object; if `invalid` is `Some(n)`, the n-th measured number in it becomes `"<invalid>"`.
    pub fn new(invalid: Option<usize>) -> Self {
        let mut text = Vec::with_capacity(1024);
        text.push(b'{');
        Self { text, until_invalid: invalid, digits: itoa::Buffer::new() }
    }

    /// Closes the outermost object and gives its text.
    pub fn finish(mut self) -> Vec<u8> {
        self.text.push(b'}');
        self.text
    }

    /// Writes an object: `fields` writes what is inside.
    pub fn object(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.name(name);
        self.text.push(b'{');
        fields(self);
        self.text.push(b'}');
    }

    /// Writes text that needs no escaping.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text.push(b'"');
        self.text.extend_from_slice(value.as_bytes());
        self.text.push(b'"');
    }

    /// Writes a boolean.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.text.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Writes a whole number that no sensor measured (a counter).
    pub fn count(&mut self, name: &str, value: u64) {
        self.name(name);
        self.text.extend_from_slice(self.digits.format(value).as_bytes());
    }

    /// Writes a measured whole number.
    pub fn whole(&mut self, name: &str, value: i64) {
        if self.measured(name) {
            self.text.extend_from_slice(self.digits.format(value).as_bytes());
        }
    }

    /// Writes a measured number with `decimals` digits after the point.
    pub fn real(&mut self, name: &str, value: f64, decimals: u32) {
        if !self.measured(name) {
            return;
        }
        let scale = 10_i64.pow(decimals);
        let scaled = (value * scale as f64).round() as i64;
        if scaled < 0 {
            self.text.push(b'-');
        }
        let scaled = scaled.unsigned_abs();
        let scale = scale.unsigned_abs();
        self.text.extend_from_slice(self.digits.format(scaled / scale).as_bytes());
        self.text.push(b'.');
        // A leading 1 keeps the zeros after the point; it is cut off again.
        self.text.extend_from_slice(&self.digits.format(scale + scaled % scale).as_bytes()[1..]);
    }

    /// Writes the name of a measured number; false if the sensor's value was invalid and is written already.
    fn measured(&mut self, name: &str) -> bool {
        self.name(name);
        let left = self.until_invalid;
        self.until_invalid = left.and_then(|left| left.checked_sub(1));
        if left == Some(0) {
            self.text.extend_from_slice(b"\"<invalid>\"");
        }
        left != Some(0)
    }

    fn name(&mut self, name: &str) {
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reals_read_back_as_they_were_rounded(value in -1e6..1e6_f64, decimals in 1..7_u32) {
            let mut json = Json::new(None);
            json.real("x", value, decimals);
            json.object("y", |json| json.whole("z", -7));
            let read: serde_json::Value = serde_json::from_slice(&json.finish()).unwrap();
            let half = 0.5 / 10_f64.powi(decimals as i32);
            prop_assert!((read["x"].as_f64().unwrap() - value).abs() <= half * 1.001);
            prop_assert_eq!(&read["y"]["z"], &serde_json::json!(-7));
        }
    }

    #[test]
    fn exactly_the_chosen_number_is_invalid() {
        let mut json = Json::new(Some(1));
        json.count("seq", 1);
        json.real("a", 1.5, 1);
        json.real("b", 2.5, 1);
        json.whole("c", 3);
        assert_eq!(json.finish(), br#"{"seq":1,"a":1.5,"b":"<invalid>","c":3}"#);
    }
}
