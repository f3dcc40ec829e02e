//! What must hold for any bytes that a client sends.

use std::sync::{Arc, LazyLock};

use thrift::protocol::{TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TMessageType, TType};
use thrift::{Error, TConfiguration, TransportErrorKind};

use super::accounts::Accounts;
use super::api::Api;
use super::codec::{Codec, Outcome};
use super::dialect::Protocol;
use super::dispatch::Asked;
use super::framing::{Decoded, RequestDecoder};
use super::memory::Charge;
use super::scan::{Bounds, Progress, Scanner, Violation};
use super::{Config, Peer, ZkData};
use crate::metrics::Metrics;
use crate::model::{Change, Node, NodePath, Stat};
use crate::store::{Feed, Store};

const BOUNDS: Bounds = Bounds { message: 4_096, call: 16_384, string: 1_024, container: 256, depth: 8 };

/// One request is cut out of them, the same however they arrive; the library's own reader agrees on its end; and it is
/// answered.
pub fn requests(bytes: &[u8]) {
    for protocol in [Protocol::Binary, Protocol::Compact] {
        the_library_agrees(protocol, bytes);
    }
    let at_once = RequestDecoder::new(BOUNDS).next(bytes);
    let mut piecemeal = RequestDecoder::new(BOUNDS);
    let first = (0..=bytes.len()).map(|end| piecemeal.next(&bytes[..end])).find(|cut| *cut != Decoded::Incomplete);
    match (first.unwrap_or(Decoded::Incomplete), &at_once) {
        (Decoded::Violation(..), Decoded::Violation(..)) => {}
        (piecemeal, at_once) => assert_eq!(piecemeal, *at_once),
    }
    let Decoded::Request { dialect, head, end } = at_once else { return };
    let mut output = Vec::new();
    let (codec, api) = &*HOUSE;
    let peer = Peer::of(api, None);
    let mut charge = Charge::new(&peer.account).expect("room");
    if let Ok(Outcome::Answered | Outcome::Refused) =
        codec.answer(dialect, &head, &bytes[..end], Asked { api, peer: &peer }, &mut output, &mut charge)
    {
        let length = output.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize + 4);
        assert!(!dialect.framed || output.is_empty() || length == Some(output.len()));
    }
}

fn the_library_agrees(protocol: Protocol, bytes: &[u8]) {
    let found = Scanner::new(protocol, 0, BOUNDS).scan(bytes);
    if let Progress::Complete(end) = found
        && let Err(Error::Transport(error)) = read(protocol, &bytes[..end])
    {
        assert_ne!(error.kind, TransportErrorKind::EndOfFile, "the message goes on after its end");
    }
    if let Ok(end) = read(protocol, bytes) {
        let bound =
            [Violation::Message, Violation::String, Violation::Container, Violation::Depth].map(Progress::Violation);
        // The library takes a compact field without a type as the end of its struct, whatever else its byte says.
        let lax = protocol == Protocol::Compact && found == Progress::Violation(Violation::Type);
        assert!(found == Progress::Complete(end) || lax || bound.contains(&found), "{found:?} instead of {end}");
    }
}

/// Where the message ends according to the library.
fn read(protocol: Protocol, bytes: &[u8]) -> thrift::Result<usize> {
    let mut rest = bytes;
    // Its own limits keep it from allocating memory by a length that it reads.
    let limits = TConfiguration::builder()
        .max_message_size(Some(BOUNDS.call))
        .max_frame_size(Some(BOUNDS.call))
        .max_string_size(Some(BOUNDS.call))
        .max_container_size(Some(BOUNDS.call))
        .build()?;
    match protocol {
        Protocol::Binary => pass(&mut TBinaryInputProtocol::with_config(&mut rest, true, limits)),
        Protocol::Compact => pass(&mut TCompactInputProtocol::with_config(&mut rest, limits)),
    }?;
    Ok(bytes.len() - rest.len())
}

fn pass(input: &mut dyn TInputProtocol) -> thrift::Result<()> {
    let message = input.read_message_begin()?;
    if !matches!(message.message_type, TMessageType::Call | TMessageType::OneWay) {
        return Err("not a call".into());
    }
    input.skip(TType::Struct)?;
    input.read_message_end()
}

/// The codec and the API, with one node.
static HOUSE: LazyLock<(Codec, Api)> = LazyLock::new(|| {
    let (config, metrics) = (Config::default(), Arc::<Metrics>::default());
    let feed = Feed::of_nodes("fuzz", "file", vec![NodePath::root()]);
    let store = Store::new(&Default::default(), vec![feed], metrics.clone());
    let node = Node { data: b"data".as_slice().into(), stat: Stat::default() };
    store.publisher(0).publish_whole(vec![Change::Put(NodePath::root(), Arc::new(node))]);
    let api = Api::new(&config, &ZkData::default(), store, Accounts::new(&config), metrics.clone());
    (Codec::new(&config, metrics), api)
});
