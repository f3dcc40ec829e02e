//! An argument to PHP that comes back as a result is the original value.

use super::closures::{PLAIN, demo, list, run};
use super::random;
use crate::Value;

const INTEGERS: [i64; 9] = [0, 1, -1, 9, i32::MAX as i64 + 1, i32::MIN as i64 - 1, 1 << 53, i64::MAX, i64::MIN];

const FLOATS: [f64; 14] = [
    0.0,
    -0.0,
    1.0,
    0.1,
    -1.5e300,
    1e25,
    123_456_789_012_345_680.0,
    f64::MIN_POSITIVE,
    5e-324,
    f64::MAX,
    f64::EPSILON,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

const TEXTS: [&str; 22] = [
    "",
    "plain",
    "\0",
    "a\0b",
    "\"",
    "\";i:1;s:1:\"",
    "it's",
    "}{;:\\",
    "é😀",
    "\r\n",
    "O:8:\"stdClass\":0:{}",
    "0",
    "-0",
    "00",
    "7",
    "-7",
    "+7",
    " 7",
    "1.5",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
];

/// A key of a PHP array.
#[derive(PartialEq)]
enum Key {
    Integer(i64),
    Text(Vec<u8>),
}

#[test]
fn thousands_of_values_go_to_php_and_come_back() {
    let mut random = random();
    for _ in 0..10 {
        let values: Vec<Value> = (0..500).map(|_| any(&mut random, 4)).collect();
        let echo = demo("echo", list([list(values.clone())]));
        let (mut given, end) = run(&PLAIN, vec![echo], "").expect("the closure runs").remove(0);
        assert_eq!(end, Ok(()));
        let given = given.remove(0)[0].as_array().expect("a list").clone();
        for (value, given) in values.iter().zip(&given) {
            assert_eq!(described(given), described(value), "{value}");
        }
    }
}

/// A value with at most this many levels.
fn any(random: &mut impl FnMut() -> usize, levels: usize) -> Value {
    let kinds = if levels == 0 { 8 } else { 12 };
    let length = random() % 6;
    match random() % kinds {
        0 => Value::Nil,
        1 => (random().is_multiple_of(2)).into(),
        2 => one_of(&INTEGERS, random).into(),
        3 => (random() as u64).into(),
        4 => one_of(&FLOATS, random).into(),
        5 if random().is_multiple_of(2) => Value::F32(f32::from_bits(random() as u32)),
        5 => Value::F64(f64::from_bits(random() as u64)),
        6 => one_of(&TEXTS, random).into(),
        7 => Value::Binary((0..random() % 40).map(|_| random() as u8).collect()),
        8 | 9 => Value::Array((0..length).map(|_| any(random, levels - 1)).collect()),
        _ => Value::Map((0..length).map(|_| (any_key(random), any(random, levels - 1))).collect()),
    }
}

fn any_key(random: &mut impl FnMut() -> usize) -> Value {
    match random() % 4 {
        0 => one_of(&INTEGERS, random).into(),
        1 => (random() as u64).into(),
        2 => Value::Binary((0..random() % 4).map(|_| random() as u8).collect()),
        _ => one_of(&TEXTS, random).into(),
    }
}

fn one_of<T: Copy>(all: &[T], random: &mut impl FnMut() -> usize) -> T {
    all[random() % all.len()]
}

/// In PHP's view.
fn described(value: &Value) -> String {
    match value {
        Value::Nil => "null".into(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Integer(number) => match number.as_i64() {
            Some(number) => format!("i{number}"),
            None => float(number.as_f64().expect("a number")),
        },
        Value::F32(number) => float((*number).into()),
        Value::F64(number) => float(*number),
        Value::String(text) => format!("s{}", hex(text.as_bytes())),
        Value::Binary(bytes) => format!("s{}", hex(bytes)),
        Value::Array(values) => array(values.iter().enumerate().map(|(index, value)| (index.into(), value))),
        Value::Map(pairs) => array(pairs.iter().map(|(key, value)| (key.clone(), value))),
        Value::Ext(..) => unreachable!("none is made"),
    }
}

/// With equal keys the last value wins, at the position of the first.
fn array<'a>(pairs: impl Iterator<Item = (Value, &'a Value)>) -> String {
    let mut all: Vec<(Key, String)> = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (key(&name), described(value));
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => all.push((name, value)),
        }
    }
    let pairs = all.iter().map(|(name, value)| match name {
        Key::Integer(number) => format!("i{number}={value},"),
        Key::Text(text) => format!("s{}={value},", hex(text)),
    });
    format!("[{}]", pairs.collect::<String>())
}

/// PHP's own rule: decimal, without extra zeros or signs, within 64 bits.
fn key(key: &Value) -> Key {
    let text = key.as_slice().map_or_else(|| key.to_string().into_bytes(), <[u8]>::to_vec);
    let digits = text.strip_prefix(b"-").unwrap_or(&text);
    let is_number = text == b"0" || digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
    let number = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    number.filter(|_| is_number).map_or(Key::Text(text), Key::Integer)
}

fn float(number: f64) -> String {
    if number.is_nan() { "nan".into() } else { format!("f{}", hex(&number.to_be_bytes())) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
