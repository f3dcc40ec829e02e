//! The error of a method, as its caller sees it.

use std::any::{Any, type_name};
use std::error::Error;

use roster_tunnel::RemoteError;

/// How much of a message is sent.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Why a call failed. Any error converts by `?`; the name of its type becomes the class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodError {
    pub message: String,
    /// The kind of the error, for callers to distinguish: a type's name, as PHP reports the exception's class.
    pub class: Option<String>,
    pub code: i64,
}

impl MethodError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    pub fn class(self, class: impl Into<String>) -> Self {
        Self { class: Some(class.into()), ..self }
    }

    pub fn code(self, code: i64) -> Self {
        Self { code, ..self }
    }

    /// From the payload of a panic.
    pub(super) fn panicked(with: &(dyn Any + Send)) -> Self {
        let text = with.downcast_ref::<&str>().copied().or_else(|| with.downcast_ref::<String>().map(String::as_str));
        Self::new(format!("the method panicked: {}", text.unwrap_or("it does not say why"))).class("Panic")
    }

    pub(super) fn told(self) -> RemoteError {
        let cut = |text: String| text.chars().take(MAX_MESSAGE_BYTES).collect();
        RemoteError::thrown(cut(self.message), self.class.map(cut), self.code)
    }
}

impl<E: Error> From<E> for MethodError {
    fn from(error: E) -> Self {
        Self::new(error.to_string()).class(type_name::<E>())
    }
}
