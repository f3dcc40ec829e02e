//! What a PHP master is asked to do: closures in the serialized form that it runs, and the answers they give.
//!
//! A closure is a constant text of ours, a file beside this one, and values for the variables that it uses. What a
//! caller gives, also the name of a service or a method, becomes a value and never PHP source.
//!
//! Format: PHP's `serialize()`, and the classes of `laravel/serializable-closure` 2.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::frame::Bounds;
use super::message::RemoteError;
use super::value::{Value, get, take};

const CALL: &str = include_str!("call.php");
const SERVICES: &str = include_str!("services.php");

/// What the message around an answer takes of a frame at most, and a margin.
const AROUND: usize = 4 * 1024;

/// What the closures count for each value besides the bytes of its text: no less than it takes on the wire.
const A_VALUE: usize = 16;

/// Makes the closures for one master.
#[derive(Clone, Debug)]
pub struct Closures {
    /// For masters that run only what is signed with their key (`TunnelStream::$secretKey`).
    pub key: Option<SigningKey>,
    /// What the answers may be; larger ones are refused by the master, which stays connected.
    pub bounds: Bounds,
}

/// A secret shared with masters. It never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(pub Vec<u8>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// A value that PHP has no counterpart for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPhp {
    #[error("a map's key is neither text nor an integer")]
    Key,
    #[error("an extension type of MessagePack, which PHP masters do not know")]
    Extension,
}

impl Closures {
    /// Asks for the services.
    pub fn services(&self) -> Vec<u8> {
        self.closure(SERVICES, &self.limits()).expect("a number is a value of PHP")
    }

    /// Asks to call a method, with a list of arguments or a map of them by name.
    pub fn call(&self, service: &str, method: &str, arguments: Value) -> Result<Vec<u8>, NotPhp> {
        let arguments = if arguments.is_nil() { Value::Array(Vec::new()) } else { arguments };
        let uses = [("service", service.into()), ("method", method.into()), ("arguments", arguments)];
        self.closure(CALL, &[uses.as_slice(), &self.limits()].concat())
    }

    /// How large a value may be, and how deep, so that it stays within the bounds with the message around it.
    fn limits(&self) -> [(&'static str, Value); 2] {
        let room = self.bounds.bytes.min(self.bounds.values.saturating_mul(A_VALUE)).saturating_sub(AROUND);
        [("room", room.into()), ("levels", self.bounds.depth.saturating_sub(2).into())]
    }

    fn closure(&self, file: &str, uses: &[(&str, Value)]) -> Result<Vec<u8>, NotPhp> {
        let mut native = object("Native", 5);
        native.extend(b"s:3:\"use\";");
        native.extend(format!("a:{}:{{", uses.len()).bytes());
        for (name, value) in uses {
            write_string(name.as_bytes(), &mut native);
            write_value(value, &mut native)?;
        }
        native.extend(b"}s:8:\"function\";");
        write_string(function(file).as_bytes(), &mut native);
        native.extend(b"s:5:\"scope\";N;s:4:\"this\";N;s:4:\"self\";");
        write_string(&[b'0'; 32], &mut native);
        native.push(b'}');
        let inner = match &self.key {
            Some(key) => key.sign(&native),
            None => native,
        };
        let mut closure =
            b"O:47:\"Laravel\\SerializableClosure\\SerializableClosure\":1:{s:12:\"serializable\";".to_vec();
        closure.extend(inner);
        closure.push(b'}');
        Ok(closure)
    }
}

impl SigningKey {
    fn sign(&self, native: &[u8]) -> Vec<u8> {
        let mut signed = object("Signed", 2);
        signed.extend(b"s:12:\"serializable\";");
        write_string(native, &mut signed);
        signed.extend(b"s:4:\"hash\";");
        write_string(self.hash(native).as_bytes(), &mut signed);
        signed.push(b'}');
        signed
    }

    pub(super) fn hash(&self, text: &[u8]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length is taken");
        BASE64_STANDARD.encode(mac.chain_update(text).finalize().into_bytes())
    }
}

/// What one `data` of our closures says: a value, or that the call failed.
pub fn answer(data: Value) -> Result<Value, RemoteError> {
    if let Some(error) = get(&data, "error") {
        return Err(RemoteError::from_value(error));
    }
    take(data, "value").ok_or_else(|| RemoteError::new("the master did not answer as the closure does"))
}

/// Writes a value as `serialize()` would. An integer beyond PHP's becomes a float, as in PHP itself.
pub fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), NotPhp> {
    match value {
        Value::Nil => out.extend(b"N;"),
        Value::Boolean(yes) => out.extend(format!("b:{};", u8::from(*yes)).bytes()),
        Value::Integer(number) => match number.as_i64() {
            Some(number) => out.extend(format!("i:{number};").bytes()),
            None => write_float(number.as_f64().unwrap_or(f64::INFINITY), out),
        },
        Value::F32(number) => write_float((*number).into(), out),
        Value::F64(number) => write_float(*number, out),
        Value::String(text) => write_string(text.as_bytes(), out),
        Value::Binary(bytes) => write_string(bytes, out),
        Value::Array(values) => {
            out.extend(format!("a:{}:{{", values.len()).bytes());
            for (index, value) in values.iter().enumerate() {
                out.extend(format!("i:{index};").bytes());
                write_value(value, out)?;
            }
            out.push(b'}');
        }
        Value::Map(pairs) => {
            out.extend(format!("a:{}:{{", pairs.len()).bytes());
            for (key, value) in pairs {
                write_key(key, out)?;
                write_value(value, out)?;
            }
            out.push(b'}');
        }
        Value::Ext(..) => return Err(NotPhp::Extension),
    }
    Ok(())
}

/// A key of a PHP array: text that is an integer as PHP writes it is that integer.
fn write_key(key: &Value, out: &mut Vec<u8>) -> Result<(), NotPhp> {
    let text = match key {
        Value::Integer(number) => number.to_string().into_bytes(),
        _ => key.as_slice().ok_or(NotPhp::Key)?.to_vec(),
    };
    let number = str::from_utf8(&text).ok().and_then(|text| text.parse::<i64>().ok());
    match number.filter(|number| number.to_string().as_bytes() == text) {
        Some(number) => out.extend(format!("i:{number};").bytes()),
        None => write_string(&text, out),
    }
    Ok(())
}

fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(format!("s:{}:\"", bytes.len()).bytes());
    out.extend(bytes);
    out.extend(b"\";");
}

fn write_float(number: f64, out: &mut Vec<u8>) {
    let text = match number {
        _ if number.is_nan() => "NAN".to_owned(),
        f64::INFINITY => "INF".to_owned(),
        f64::NEG_INFINITY => "-INF".to_owned(),
        // The shortest text that reads back as the same number.
        _ => format!("{number:?}"),
    };
    out.extend(format!("d:{text};").bytes());
}

fn object(class: &str, fields: usize) -> Vec<u8> {
    let class = format!("Laravel\\SerializableClosure\\Serializers\\{class}");
    format!("O:{}:\"{class}\":{fields}:{{", class.len()).into_bytes()
}

/// The function that a PHP file returns.
fn function(file: &str) -> &str {
    let (_, function) = file.split_once("\nreturn ").expect("our files return a function");
    function.trim_end().trim_end_matches(';')
}
