//! Canonical hashing: every value is written to the hasher with its type and length, objects by sorted key, so
//! that two values hash alike exactly when they mean the same JSON.

use blake3::Hasher;
use serde_json::{Map, Number, Value};

/// A BLAKE3 hasher that frames everything written to it.
pub struct Canonical(Hasher);

impl Canonical {
    /// `context`: names what is hashed and the version of its form, so that hashes of different things never meet.
    pub fn new(context: &str) -> Self {
        Self(Hasher::new_derive_key(context))
    }

    /// A hasher that goes on from here on its own.
    pub fn fork(&self) -> Self {
        Self(self.0.clone())
    }

    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    pub fn none(&mut self) {
        self.0.update(b"0");
    }

    pub fn text(&mut self, text: &str) {
        self.framed(b's', text.as_bytes());
    }

    pub fn optional_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.none(),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.framed(b'b', bytes);
    }

    /// Says that `len` items follow.
    pub fn list(&mut self, len: usize) {
        self.framed(b'l', &(len as u64).to_le_bytes());
    }

    pub fn integer(&mut self, n: i128) {
        self.framed(b'i', &n.to_le_bytes());
    }

    /// Integral floats hash as the integer: `1.0` and `1` are one number in JSON.
    pub fn float(&mut self, x: f64) {
        // 2^63: beyond it the cast would saturate and make different numbers alike.
        if x.fract() == 0.0 && x.abs() < 9_223_372_036_854_775_808.0 {
            self.integer(x as i128);
        } else {
            self.framed(b'f', &x.to_bits().to_le_bytes());
        }
    }

    pub fn optional_float(&mut self, x: Option<f64>) {
        match x {
            Some(x) => self.float(x),
            None => self.none(),
        }
    }

    pub fn optional_integer(&mut self, n: Option<i128>) {
        match n {
            Some(n) => self.integer(n),
            None => self.none(),
        }
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.none(),
            Value::Bool(b) => self.framed(b't', &[u8::from(*b)]),
            Value::Number(n) => self.number(n),
            Value::String(s) => self.text(s),
            Value::Array(items) => {
                self.list(items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(map) => self.object(map, |_| true),
        }
    }

    pub fn optional_value(&mut self, value: Option<&Value>) {
        match value {
            Some(value) => self.value(value),
            None => self.none(),
        }
    }

    /// The members whose key passes `keep` and whose value is not null, by sorted key.
    pub fn object(&mut self, map: &Map<String, Value>, keep: impl Fn(&str) -> bool) {
        let mut members: Vec<_> = map.iter().filter(|(k, v)| keep(k) && !v.is_null()).collect();
        members.sort_unstable_by_key(|(key, _)| *key);
        self.framed(b'o', &(members.len() as u64).to_le_bytes());
        for (key, value) in members {
            self.text(key);
            self.value(value);
        }
    }

    fn number(&mut self, n: &Number) {
        if let Some(n) = n.as_i64() {
            self.integer(n.into());
        } else if let Some(n) = n.as_u64() {
            self.integer(n.into());
        } else if let Some(x) = n.as_f64() {
            self.float(x);
        }
    }

    fn framed(&mut self, tag: u8, bytes: &[u8]) {
        let mut head = [0; 9];
        head[0] = tag;
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.update(&head);
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn hash(value: &Value) -> [u8; 32] {
        let mut c = Canonical::new("test");
        c.value(value);
        c.finish()
    }

    #[test]
    fn order_of_keys_and_spelling_of_numbers_do_not_matter() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":[1.0,{"x":2,"y":3}]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{ "b":[1,{"y":3.0,"x":2}], "a":1e0 }"#).unwrap();
        assert_eq!(hash(&a), hash(&b));
    }

    #[test]
    fn framing_keeps_neighbours_apart() {
        assert_ne!(hash(&json!(["ab", "c"])), hash(&json!(["a", "bc"])));
        assert_ne!(hash(&json!([["a"], "b"])), hash(&json!([["a", "b"]])));
        assert_ne!(hash(&json!("1")), hash(&json!(1)));
        assert_ne!(hash(&json!(0.1)), hash(&json!(0.2)));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| json!(n)),
            (-1e12f64..1e12).prop_map(|x| json!(x)),
            ".{0,6}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map("[a-d]{1,2}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn reversed(value: &Value) -> Value {
        match value {
            Value::Array(items) => Value::Array(items.iter().map(reversed).collect()),
            Value::Object(map) => Value::Object(map.iter().rev().map(|(k, v)| (k.clone(), reversed(v))).collect()),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn hash_ignores_member_order(value in any_json()) {
            prop_assert_eq!(hash(&value), hash(&reversed(&value)));
        }

        #[test]
        fn values_hash_alike_exactly_when_they_are_the_same_json(a in any_json(), b in any_json()) {
            prop_assert_eq!(normal(&a) == normal(&b), hash(&a) == hash(&b));
        }
    }

    /// Integral floats as integers: `1.0` and `1` are one number in JSON.
    fn normal(value: &Value) -> Value {
        match value {
            Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
            Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), normal(v))).collect()),
            Value::Number(n) => match n.as_f64() {
                Some(x) if !n.is_i64() && x.fract() == 0.0 => json!(x as i64),
                _ => value.clone(),
            },
            other => other.clone(),
        }
    }
}
