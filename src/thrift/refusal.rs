//! Refusals: the error for a client whose message is not answered, after which its connection ends.

use bytesize::ByteSize;
use thrift::protocol::TMessageIdentifier;

use super::idl::InvalidRequest;
use super::methods;
use super::request::invalid;
use super::scan::Violation;

/// Why a message, and everything after it, is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Violation(Violation),
    /// Its user has no room for it.
    Overloaded,
}

/// The refusal as an exception of the interface, since it is the client's own mistake, and no other sidecar would
/// accept the call. None: it is not a call, or is refused for another reason.
pub(super) fn too_long(request: &TMessageIdentifier, why: Refusal, max_call: ByteSize) -> Option<InvalidRequest> {
    let message = match why {
        Refusal::Violation(Violation::Message) => {
            format!("the request is longer than {max_call}, which [thrift] max_call allows")
        }
        Refusal::Violation(Violation::String) => {
            format!(
                "they are longer than [thrift] max_string allows; a whole request may have {max_call}, its max_call"
            )
        }
        _ => return None,
    };
    let argument = methods::find(request.name.as_bytes())?.large?;
    Some(invalid(argument, message))
}

#[cfg(test)]
mod tests {
    use thrift::protocol::TMessageType;

    use super::*;
    use crate::thrift::dispatch::INVALID;

    const INTERFACE: &str = include_str!("../../idl/roster.thrift");

    #[test]
    fn of_every_method_that_may_be_long_it_is_told_in_the_field_that_its_interface_has_for_it() {
        for name in methods::METHODS.iter().filter(|method| method.large.is_some()).map(|method| method.name) {
            let request = TMessageIdentifier::new(name, TMessageType::Call, 0);
            too_long(&request, Refusal::Violation(Violation::Message), ByteSize::mib(1)).expect(name);
            let (_, method) = INTERFACE.split_once(&format!(" {name}(1:")).expect(name);
            let (exceptions, _) = method.split_once(": InvalidRequest invalid").expect(name);
            let field = exceptions.rsplit([' ', '(']).next().expect("a number");
            assert_eq!(field, INVALID.to_string(), "{name}");
            assert_eq!(exceptions.matches("throws").count(), 1, "{name}");
        }
        let short = TMessageIdentifier::new("get", TMessageType::Call, 0);
        assert!(too_long(&short, Refusal::Violation(Violation::Message), ByteSize::mib(1)).is_none());
    }
}
