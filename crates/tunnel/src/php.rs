//! What a PHP master is asked to run: one closure in the serialized form that it accepts, and how it encodes values.
//!
//! The closure runs a constant text of ours, the file `master.php` in this folder. What a caller sends, including the
//! name of a service or a method, reaches it as data and is never PHP source.
//!
//! Format: PHP's `serialize()`, and the classes of `laravel/serializable-closure` 2.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::frame::{Bounds, Progress, Scanner};
use super::message::RemoteError;
use super::trunk::WINDOW;
use super::value::{Value, normalize};

const MASTER: &str = include_str!("master.php");

/// PHP never frees what it compiles: so this, which is compiled for each connection, is short, and what it runs is
/// cached by its digest.
const CLOSURE: &str = "function ($stream) use ($text, $digest, $room, $levels, $window) { \
     $run = $GLOBALS['roster.master'][$digest] ??= eval($text); \
     return $run($stream, $room, $levels, $window); }";

/// The maximum overhead of the message around a value, plus a margin.
const AROUND: usize = 256;

/// Creates the closure for masters, and decodes what it returns.
#[derive(Clone, Debug)]
pub struct Closures {
    /// For masters that only run code signed with their key (`TunnelStream::$secretKey`).
    pub key: Option<SigningKey>,
    /// The limits of answers; a master refuses to send larger ones, and stays connected.
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

impl Closures {
    /// The closure that answers requests while its stream is open.
    pub fn master(&self) -> Vec<u8> {
        let text = MASTER.trim_start_matches("<?php\n");
        let digest = BASE64_STANDARD.encode(Sha256::digest(text));
        let numbers = [("room", self.room()), ("levels", self.levels()), ("window", WINDOW)];
        let mut native = object("Native", 5);
        native.extend(b"s:3:\"use\";a:5:{");
        ["text", text, "digest", &digest].iter().for_each(|text| write_string(text.as_bytes(), &mut native));
        for (name, number) in numbers {
            write_string(name.as_bytes(), &mut native);
            native.extend(format!("i:{number};").bytes());
        }
        native.extend(b"}s:8:\"function\";");
        write_string(CLOSURE.as_bytes(), &mut native);
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
        closure
    }

    /// A value as packed by the closure.
    pub fn unpack(&self, packed: &Value) -> Result<Value, RemoteError> {
        let bytes = packed.as_slice().unwrap_or_default();
        let bounds = Bounds { depth: self.levels(), ..self.bounds };
        match Scanner::new(bounds).scan(bytes) {
            Progress::Complete(end) if end == bytes.len() => {}
            Progress::Wrong(wrong) => return Err(RemoteError::new(format!("the result cannot be read: {wrong}"))),
            _ => return Err(RemoteError::new("the master did not answer as the closure does")),
        }
        let mut value =
            rmpv::decode::read_value(&mut &bytes[..]).map_err(|error| RemoteError::new(error.to_string()))?;
        normalize(&mut value);
        Ok(value)
    }

    /// The maximum size of a packed value.
    fn room(&self) -> usize {
        self.bounds.bytes.saturating_sub(AROUND)
    }

    /// The maximum nesting depth: a message would have two more levels around it.
    fn levels(&self) -> usize {
        self.bounds.depth.saturating_sub(2)
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

fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(format!("s:{}:\"", bytes.len()).bytes());
    out.extend(bytes);
    out.extend(b"\";");
}

fn object(class: &str, fields: usize) -> Vec<u8> {
    let class = format!("Laravel\\SerializableClosure\\Serializers\\{class}");
    format!("O:{}:\"{class}\":{fields}:{{", class.len()).into_bytes()
}
