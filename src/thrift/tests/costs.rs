//! The cost of an answer: how often memory is allocated, and how often the data is copied.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use thrift::protocol::{TBinaryOutputProtocol, TCompactOutputProtocol, TOutputProtocol, TSerializable};

use super::*;
use crate::model::{Node, NodePath};
use crate::thrift::codec::{Codec, Outcome};
use crate::thrift::convert;
use crate::thrift::dispatch::{Asked, Reply};
use crate::thrift::framing::{Decoded, RequestDecoder};
use crate::thrift::idl::{GetRequest, NodeReply};
use crate::thrift::memory::Charge;
use crate::thrift::scan::Bounds;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    /// The number and the bytes.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    // Not counted while a thread ends.
    let _ = ALLOCATED.try_with(|it| it.set((it.get().0 + 1, it.get().1 + bytes)));
}

// SAFETY: the system's allocator does everything.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's obligations.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's obligations.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// An API with a node `/zk_test` of this size.
fn api(bytes: usize) -> Api {
    let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let node = Node { data: vec![b'x'; bytes].into(), ..Node::default() };
    let path = NodePath::parse("/zk_test").expect("a path");
    store.publisher(0).publish_whole(vec![Change::Put(path, Arc::new(node))]);
    let config = Config::default();
    Api::new(&config, &ZkData::default(), store, Accounts::new(&config), Arc::default())
}

/// How often an answer allocates on a connection that has answered before, and how many bytes.
fn cost(request: &[u8], bytes: usize) -> (usize, usize) {
    costs(request, bytes)[1]
}

/// The same for the first answer and the second.
fn costs(request: &[u8], bytes: usize) -> [(usize, usize); 2] {
    let (api, config) = (api(bytes), Config::default());
    let peer = Peer::of(&api, None);
    let codec = Codec::new(&config, Arc::default());
    let (mut decoder, mut output) = (RequestDecoder::new(Bounds::of(&config)), Vec::new());
    let mut charge = Charge::new(&peer.account).expect("room");
    [(); 2].map(|()| {
        output.clear();
        let before = ALLOCATED.get();
        let Decoded::Request { dialect, head, end } = decoder.next(request) else { panic!("no request") };
        let asked = Asked { api: &api, peer: &peer };
        let outcome = codec.answer(dialect, &head, &request[..end], asked, &mut output, &mut charge);
        let spent = (ALLOCATED.get().0 - before.0, ALLOCATED.get().1 - before.1);
        assert!(matches!(outcome, Ok(Outcome::Answered)) && output.len() > bytes, "{outcome:?}");
        spent
    })
}

const GET: &[u8] =
    b"\x80\x01\x00\x01\x00\x00\x00\x03get\x00\x00\x00\x01\x0c\x00\x01\x0b\x00\x01\x00\x00\x00\x08/zk_test\x00\x00";
const ZK_DATA: &[u8] = b"\x80\x01\x00\x01\x00\x00\x00\x06zkData\x00\x00\x00\x01\x00";

#[test]
fn an_answer_allocates_little_and_copies_the_data_once() {
    let (get, zk_data) = (cost(GET, 64), cost(ZK_DATA, 64));
    assert!(get.0 <= 3, "{get:?} of `get`: its path twice, and its name");
    assert!(zk_data.0 <= 1, "{zk_data:?} of `zkData`: its name");
    // It is only copied into the output, which already has room.
    assert_eq!([cost(GET, 1 << 20), cost(ZK_DATA, 1 << 20)], [get, zk_data]);
}

#[test]
fn the_room_of_a_large_answer_is_made_at_once() {
    let [(_, first), _] = costs(GET, 1 << 20);
    assert!(first < (1 << 20) + 4_096, "{first} bytes");
}

#[test]
fn a_node_is_written_as_the_generated_code_writes_it() {
    let api = api(64);
    let found = api.get(&Peer::of(&api, None), &GetRequest::new("/zk_test".to_owned(), None)).expect("a node");
    let node = convert::node(&found.path, &found.node);
    let reply = NodeReply { node, freshness: found.freshness.clone() };
    for protocol in [binary, compact] {
        assert_eq!(protocol(&|output| found.write(output)), protocol(&|output| reply.write_to_out_protocol(output)));
    }
}

type Write<'a> = &'a dyn Fn(&mut dyn TOutputProtocol) -> thrift::Result<()>;

fn binary(write: Write<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut TBinaryOutputProtocol::new(&mut bytes, true)).expect("a vector takes it");
    bytes
}

fn compact(write: Write<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut TCompactOutputProtocol::new(&mut bytes)).expect("a vector takes it");
    bytes
}
