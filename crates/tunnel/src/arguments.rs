//! Arguments: packed once when a call is accepted, for all masters and attempts.

use std::sync::Arc;

use bytes::Bytes;
use rmpv::Value;

use crate::share::Share;

/// The arguments of a call, a list or a map by parameter name, as MessagePack. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct Arguments {
    packed: Bytes,
    /// The form for PHP, mostly identical.
    php: Result<Bytes, NotPhp>,
}

/// A value that PHP cannot represent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPhp {
    #[error("a map's key is neither text nor an integer")]
    Key,
    #[error("an extension type of MessagePack, which PHP masters do not know")]
    Extension,
}

impl Arguments {
    pub fn new(value: Value) -> Self {
        Self::kept(value, Some).expect("nobody is charged")
    }

    /// The same, charged to a user until the last copy of the bytes is dropped; none: it may not have this much.
    pub fn charged(value: Value, memory: &Arc<Share>) -> Option<Self> {
        Self::kept(value, |bytes| memory.hold(bytes))
    }

    fn kept(value: Value, keep: impl Fn(Bytes) -> Option<Bytes>) -> Option<Self> {
        let packed = keep(pack(&value))?;
        let php = match value {
            Value::Nil => Ok(pack(&Value::Array(Vec::new()))),
            value if is_php(&value) => Ok(packed.clone()),
            value => match php_value(value) {
                Ok(value) => Ok(keep(pack(&value))?),
                Err(why) => Err(why),
            },
        };
        Some(Self { packed, php })
    }

    pub fn packed(&self) -> &Bytes {
        &self.packed
    }

    /// For a PHP master, which takes nil as an empty list.
    pub fn packed_for_php(&self) -> Result<&Bytes, NotPhp> {
        self.php.as_ref().map_err(|why| *why)
    }

    /// How much memory all forms take.
    pub fn memory_size(&self) -> usize {
        let other = self.php.as_ref().ok().filter(|php| php.as_ptr() != self.packed.as_ptr());
        self.packed.len() + other.map_or(0, Bytes::len)
    }

    /// The original value.
    pub fn read(&self) -> Value {
        rmpv::decode::read_value(&mut &self.packed[..]).expect("our own is read")
    }
}

fn pack(value: &Value) -> Bytes {
    let mut packed = Vec::new();
    rmpv::encode::write_value(&mut packed, value).expect("a vector takes all");
    packed.into()
}

/// Whether PHP reads a value unchanged.
fn is_php(value: &Value) -> bool {
    match value {
        Value::Integer(number) => number.as_i64().is_some(),
        Value::Array(values) => values.iter().all(is_php),
        Value::Map(pairs) => pairs.iter().all(|(key, value)| {
            (key.as_i64().is_some() || matches!(key, Value::String(_) | Value::Binary(_))) && is_php(value)
        }),
        Value::Ext(..) => false,
        _ => true,
    }
}

/// A value as PHP reads it: an integer beyond PHP's range becomes a float, as in PHP itself.
pub fn php_value(value: Value) -> Result<Value, NotPhp> {
    Ok(match value {
        Value::Integer(number) if number.as_i64().is_none() => number.as_f64().unwrap_or(f64::INFINITY).into(),
        Value::Array(values) => Value::Array(values.into_iter().map(php_value).collect::<Result<_, _>>()?),
        Value::Map(pairs) => {
            let pair = |(key, value)| Ok((php_key(key)?, php_value(value)?));
            Value::Map(pairs.into_iter().map(pair).collect::<Result<_, _>>()?)
        }
        Value::Ext(..) => return Err(NotPhp::Extension),
        other => other,
    })
}

/// A key of a PHP array. A string that looks like a canonical integer becomes that integer there.
fn php_key(key: Value) -> Result<Value, NotPhp> {
    match key {
        Value::Integer(number) if number.as_i64().is_none() => Ok(number.to_string().into()),
        Value::Integer(_) | Value::String(_) | Value::Binary(_) => Ok(key),
        _ => Err(NotPhp::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Pool;

    #[test]
    fn php_is_sent_the_same_bytes_unless_it_reads_them_otherwise() {
        let list = |value: Value| Value::Array(vec![value]);
        let deep = list(Value::Map(vec![(i64::MIN.into(), Value::Nil), (Value::Binary(vec![0xff]), 1.5.into())]));
        for same in [list(i64::MAX.into()), deep, list("x".into()), Value::Array(Vec::new())] {
            let arguments = Arguments::new(same.clone());
            assert_eq!(arguments.packed_for_php().expect("PHP has it").as_ptr(), arguments.packed().as_ptr(), "{same}");
            assert_eq!((arguments.read(), arguments.memory_size()), (same, arguments.packed().len()));
        }
        let big_key = |key: u64| Value::Map(vec![(key.into(), Value::Nil)]);
        for (value, php) in [
            (Value::Nil, Value::Array(Vec::new())),
            (list(u64::MAX.into()), list(18_446_744_073_709_551_615f64.into())),
            (big_key(u64::MAX), Value::Map(vec![("18446744073709551615".into(), Value::Nil)])),
        ] {
            let arguments = Arguments::new(value.clone());
            assert_eq!(arguments.read(), value);
            assert_eq!(arguments.packed_for_php(), Ok(&pack(&php)));
        }
        assert_eq!(Arguments::new(list(Value::Ext(1, vec![]))).packed_for_php(), Err(NotPhp::Extension));
        assert_eq!(Arguments::new(Value::Map(vec![(1.5.into(), Value::Nil)])).packed_for_php(), Err(NotPhp::Key));
    }

    #[test]
    fn a_user_is_charged_for_them_once_until_the_last_copy_is_gone() {
        let memory = Pool::new(100_000, 1).share(None);
        let arguments = Arguments::charged("x".repeat(10_000).into(), &memory).expect("room");
        let copies = [(); 9].map(|()| arguments.packed().clone());
        drop(arguments);
        assert!((10_000..10_200).contains(&memory.taken()), "{}", memory.taken());
        drop(copies);
        assert_eq!(memory.taken(), 0);
        assert!(Arguments::charged("x".repeat(100_000).into(), &memory).is_none());
    }
}
