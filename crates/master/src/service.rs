//! Services: a name, metadata, and methods that registers can call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::MethodError;
use roster_tunnel::{Outlet, Value};

/// A service, built method by method.
///
/// A method takes its arguments as any type that can be deserialized from a list and from a map by name: a struct that
/// derives `Deserialize` works with both, a tuple with a list, and [`Value`] with all. It runs on the master's runtime
/// and must not block it. When its caller is gone, it is dropped at its next await.
#[derive(Clone, Debug)]
pub struct Service {
    pub(super) name: String,
    metadata: BTreeMap<String, Value>,
    methods: BTreeMap<String, Method>,
}

#[derive(Clone)]
struct Method(Arc<dyn Fn(Value, Values) -> Running + Send + Sync>);

pub(super) type Running = BoxFuture<'static, Result<(), MethodError>>;

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Service {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), metadata: BTreeMap::new(), methods: BTreeMap::new() }
    }

    /// Metadata that callers may select by, such as `version`, which `call` understands.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// A method that returns one value; one that serializes as nil (`()`, `None`) counts as no value.
    pub fn method<A, R, F>(self, name: impl Into<String>, method: impl Fn(A) -> F + Send + Sync + 'static) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        F: Future<Output = Result<R, MethodError>> + Send + 'static,
    {
        self.with(name, move |arguments, values| {
            let running = read(&arguments).map(&method);
            let run = async move {
                let result = written(&running?.await?)?;
                if !result.is_nil() {
                    values.put(result).await?;
                }
                Ok(())
            };
            run.boxed()
        })
    }

    /// A method that returns any number of values, one after the other.
    pub fn stream<A, F>(self, name: impl Into<String>, method: impl Fn(A, Values) -> F + Send + Sync + 'static) -> Self
    where
        A: DeserializeOwned,
        F: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        self.with(name, move |arguments, values| {
            let running = read(&arguments).map(|arguments| method(arguments, values));
            async move { running?.await }.boxed()
        })
    }

    fn with(
        mut self,
        name: impl Into<String>,
        method: impl Fn(Value, Values) -> Running + Send + Sync + 'static,
    ) -> Self {
        self.methods.insert(name.into(), Method(Arc::new(method)));
        self
    }

    /// Its description for registers.
    pub(super) fn describe(&self) -> Value {
        let metadata = self.metadata.iter().map(|(key, value)| (key.as_str().into(), value.clone()));
        Value::Map(vec![
            ("name".into(), self.name.as_str().into()),
            ("metadata".into(), Value::Map(metadata.collect())),
        ])
    }

    /// Begins a call.
    pub(super) fn run(&self, method: &str, arguments: Value, values: Values) -> Result<Running, MethodError> {
        let Some(Method(run)) = self.methods.get(method) else {
            let message = format!("Method '{method}' not found in service '{}'", self.name);
            return Err(MethodError::new(message).class("NotFound"));
        };
        Ok(run(arguments, values))
    }
}

/// Sends the values of one call to its caller.
#[derive(Debug)]
pub struct Values(pub(super) Outlet);

impl Values {
    /// Sends one value, as soon as there is room for it, even if the caller is slow.
    pub async fn send(&self, value: impl Serialize) -> Result<(), MethodError> {
        self.put(written(&value)?).await
    }

    pub(super) async fn put(&self, data: Value) -> Result<(), MethodError> {
        Ok(self.0.send(data).await?)
    }
}

fn written(value: &impl Serialize) -> Result<Value, MethodError> {
    let bytes = rmp_serde::to_vec_named(value)?;
    Ok(rmpv::decode::read_value(&mut bytes.as_slice())?)
}

/// No arguments look the same whichever way they are sent: an empty list, nil, or a map of optional ones.
fn read<A: DeserializeOwned>(arguments: &Value) -> Result<A, MethodError> {
    let none = match arguments {
        Value::Array(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        other => other.is_nil(),
    };
    if none {
        let list = read_as_told(&Value::Array(Vec::new()));
        return list.or_else(|_| read_as_told(&Value::Nil)).or_else(|_| read_as_told(&Value::Map(Vec::new())));
    }
    read_as_told(arguments)
}

fn read_as_told<A: DeserializeOwned>(arguments: &Value) -> Result<A, MethodError> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, arguments)?;
    let wrong = |error| MethodError::new(format!("the arguments do not fit: {error}")).class("BadArguments");
    rmp_serde::from_slice(&bytes).map_err(wrong)
}
