/**
 * Roster's interface for local clients. Any dialect is understood on every listener: strict binary or compact
 * protocol, framed or not, method names bare (`get`) or multiplexed (`Roster:get`).
 *
 * Paths are those of ZooKeeper: absolute, `/`-separated, without a slash at the end, below the chroot of the
 * connect string. Times of coordination nodes are in milliseconds since 1970, durations in milliseconds.
 *
 * Every method takes one request and returns one reply, both structs that may gain optional fields; and an exception has
 * the same number in every method. So clients and sidecars of different versions understand each other.
 */
namespace php Roster.Thrift
namespace rs roster

/** It is raised when something is taken away or changes its meaning, and not when something is added. */
const i32 INTERFACE_VERSION = 1

/** Where the data behind an answer comes from. */
enum Origin {
  /** From the sources, since this process started. */
  LIVE = 1,
  /** From the state of an earlier process; the sources have not been reached since. */
  RESTORED = 2
}

/** How far an answer can be trusted. */
struct Freshness {
  /** The revision answered from. It never goes back, also across restarts, and one revision is one state. */
  1: required i64 revision
  /** 0 while the sources behind the answer are in sync, else the time since they last were known to be. */
  2: required i64 ageMs
  3: required Origin origin
  /** False when the sources behind the answer are known to hold more than Roster does: a first sync is not yet
   *  done, a node may not be read, or a limit was passed. `status` says which. */
  4: required bool complete
}

/** A coordination node's own figures, as ZooKeeper keeps them; those that a static file cannot know are 0. */
struct Stat {
  /** How many times the data was set since the node was created. */
  1: required i32 version
  /** The transaction that created the node, */
  2: required i64 czxid
  /** that last set its data, */
  3: required i64 mzxid
  /** and that last created or deleted a child. */
  4: required i64 pzxid
  /** When the node was created, ms since 1970. */
  5: required i64 ctime
  /** When its data was last set, ms since 1970. */
  6: required i64 mtime
  /** The session that owns an ephemeral node; 0 for any other. */
  7: required i64 ephemeralOwner
  /** How many children ZooKeeper counts, also those that Roster does not mirror. */
  8: required i32 numChildren
}

/** A coordination node. */
struct Node {
  1: required string path
  2: required binary data
  3: required Stat stat
}

struct GetRequest {
  1: required string path
  /** Refuse with TooStale rather than answer from data older than this. Absent: any age will do. So of every read. */
  2: optional i64 maxAgeMs
}

struct NodeReply {
  1: required Node node
  2: required Freshness freshness
}

struct GetManyRequest {
  1: required list<string> paths
  2: optional i64 maxAgeMs
  /** Answer no more than `unchanged` if none of the paths has changed since this revision. So more paths than a request
   *  may hold are read at one revision. */
  3: optional i64 since
}

struct NodesReply {
  /** By path; a path without a node is left out. */
  1: required map<string, Node> nodes
  2: required Freshness freshness
  /** True: there are no nodes here, since none has changed since the revision that was asked for. */
  3: optional bool unchanged
}

struct ChildrenRequest {
  /** Of this node. */
  1: required string path
  2: optional i64 maxAgeMs
  /** At most this many names, in pages (0: as many as a page may hold). Absent, without a cursor: all of them at once;
   *  more than a reply may hold are an InvalidRequest. */
  3: optional i32 limit
  /** The `cursor` of the page before. */
  4: optional string cursor
}

struct ChildrenReply {
  /** The last parts of the children's paths, in the order of their bytes. */
  1: required list<string> names
  2: required Freshness freshness
  /** Where the next page begins; absent on the last page. */
  3: optional string cursor
}

struct SubtreeRequest {
  1: required string path
  2: optional i64 maxAgeMs
  /** At most this many nodes. Absent, or 0: as many as a page may hold. */
  3: optional i32 limit
  /** The `cursor` of the page before. */
  4: optional string cursor
}

struct SubtreeReply {
  /** The node at the path, if there is one, and what lies below it, parents before children. */
  1: required list<Node> nodes
  /** Where the next page begins; absent on the last page. */
  2: optional string cursor
  /** Every page is one revision. Where a later page has another, `watch` since the first page's tells the rest. */
  3: required Freshness freshness
}

enum ChangeKind {
  CREATED = 1,
  CHANGED = 2,
  DELETED = 3
}

/** What became of one path. */
struct Change {
  1: required string path
  /** Against the revision asked for: a node deleted and created again since is CHANGED. */
  2: required ChangeKind kind
  /** The node as it is now; absent when it is deleted. */
  3: optional Node node
}

struct WatchRequest {
  /** The revision that is known. Absent, or 0: none, so that the answer is `reset`, at once. */
  1: optional i64 since
  2: optional i64 maxAgeMs
  /** At or below these; at most 1,024. Absent, or empty: anywhere. */
  3: optional list<string> paths
  /** At most this long, and no longer than `max_watch` of the sidecar. Absent: 10 s. */
  4: optional i32 timeoutMs
  /** About this many changes at a time. Absent, or 0: as many as a reply may hold. */
  5: optional i32 limit
}

struct WatchReply {
  /** What changed since the revision asked for, each path once; empty when the time ran out. */
  1: required list<Change> changes
  /** True: what changed since that revision is no longer known (or too much to tell). Read anew, with `subtree`,
   *  and watch since the revision of its first page. Nothing else is returned then. */
  2: required bool reset
  /** Its revision is the one to pass as `since` next time. */
  3: required Freshness freshness
}

/** A service, as one master offers it. */
struct Service {
  /** Without a version; what is no version is a part of it (`mail@work`). */
  1: required string name
  /** Of `name@version` or of the metadata; 0.0.0 where none is given. */
  2: required string version
  /** A JSON object. */
  3: required string metadata
}

/** A long-running process that offers services. */
struct Master {
  /** The same at every register through which the master is known. */
  1: required string id
  /** Where it connected from: no address at which anybody could call it. */
  2: required string peerAddress
  /** When it did, ms since 1970. */
  3: required i64 connectedAt
  4: required list<Service> services
  /** How many routes there are to it: our own register, and upstream ones. */
  5: required i32 routes
  /** How many calls to it are under way from here. */
  6: required i32 outstanding
}

struct MasterRequest {
  1: required string id
  2: optional i64 maxAgeMs
}

struct MasterReply {
  1: required Master master
  2: required Freshness freshness
}

struct MastersReply {
  /** In the order of their ids. */
  1: required list<Master> masters
  /** Where the next page begins; absent on the last page. A page may be empty and not the last. */
  2: optional string cursor
  3: required Freshness freshness
}

/** Which masters, services or instances; what is absent does not restrict. */
struct ServiceQuery {
  /** The name of a service, without a version. */
  1: optional string serviceName
  2: optional i64 maxAgeMs
  /** At most this many. Absent, or 0: as many as a page may hold. */
  3: optional i32 limit
  /** The `cursor` of the page before. */
  4: optional string cursor
  /** Metadata that the service must have, at most 8, by key: a string as it is, any other value as its JSON text. */
  5: optional map<string, string> metadata
  // What follows is of `instances` alone.
  /** A requirement, as in ResolveRequest. */
  6: optional string version
  /** The group that they must be in, as their registration has it; empty: none. */
  7: optional string group
  /** As the group. */
  8: optional string zone
  /** Whether only those are wanted that can be called now: those that `resolve` chooses among. */
  9: optional bool callable
}

/** A service and how many instances it has. */
struct ServiceSummary {
  1: required string name
  /** By version, how many instances there are, masters and others; empty when there are none any more. */
  2: required map<string, i32> masters
  /** How many of them are held; absent: none. */
  3: optional i32 held
}

struct ServicesReply {
  /** In the order of their names; after those that are offered, those that nobody offers any more (the newest of
   *  them). */
  1: required list<ServiceSummary> services
  2: required Freshness freshness
  /** Where the next page begins; absent on the last page. */
  3: optional string cursor
}

/** Where clients reach an instance themselves. */
struct Endpoint {
  /** What it is for; empty: the service itself. */
  1: required string name
  /** As its registration has it (`http`, `dubbo`); empty: it does not say. */
  2: required string protocol
  /** A name or an address; one of IPv6 without brackets. */
  3: required string host
  4: required i32 port
}

/** Whether an instance can be called. One in a state that is not known here cannot. */
enum InstanceState {
  UP = 1,
  /** It was there before a restart, and is expected back. */
  RETURNING = 2,
  /** Its registration says that it takes no calls: it is disabled, is starting, or is out of service. */
  DOWN = 3
}

/** For how long an instance is not chosen, though it is registered, and why. */
struct Withholding {
  /** Since when, ms since 1970. */
  1: required i64 since
  /** Until when. */
  2: required i64 endsAt
  3: required string reason
}

/** By what an instance is known. */
struct Provenance {
  /** The name of the source, as `status` has it. */
  1: required string source
  /** What it was read from: the path of a node, */
  2: optional string path
  /** or the id of a master. */
  3: optional string masterId
  /** What read it: `tunnel` (the protocol of masters), or the format of a node as `[[services]]` has it. */
  4: required string decoder
  /** Since which revision the source reports it so. */
  5: required i64 sinceRevision
}

/** What is known of the address of an instance that is held. */
enum Probe {
  /** Nothing: it was not tried yet, or cannot be. */
  UNTRIED = 1,
  /** It takes connections. */
  ANSWERING = 2,
  /** It neither takes nor refuses them. */
  SILENT = 3
}

/** Since when, how long and how an instance is served that no node registers any more. */
struct Held {
  /** When it vanished, ms since 1970; */
  1: required i64 since
  /** when it is believed gone at the latest. */
  2: required i64 endsAt
  3: required Probe probe
  /** Whether none chooses it: nothing answers at its address, and most of the service are well. */
  4: required bool passedOver
}

/**
 * One place where a service can be had: a master, which is called through its connection (`call`); or endpoints, which
 * clients call themselves.
 */
struct Instance {
  /** The id of the master; absent: clients call one of the endpoints. */
  1: optional string masterId
  // 2 and 3 were an address to which nobody could connect, and the service.
  /** How many calls to the master are under way from here. */
  4: required i32 outstanding
  /** Without a version; what is no version is a part of it (`mail@work`). */
  5: required string serviceName
  /** 0.0.0 where none is given; `0.0.0+1.0.0.daily` where a node gives a text that is none by semver. */
  6: required string version
  /** Empty: none is given. */
  7: required string group
  /** Empty: none is given. */
  8: required string zone
  /** 100 where none is given. How often it is chosen beside others; 0: never. */
  9: required i32 weight
  /** A JSON object. */
  10: required string metadata
  11: required InstanceState state
  /** Empty for a master. The first is that of the service itself. */
  12: required list<Endpoint> endpoints
  /** By what it is known; at least one. */
  13: required list<Provenance> provenance
  /** Its callers reported failures: it is chosen only where no other can be called. Absent: it is not so. */
  14: optional Withholding ejected
  /** An administrator wants it to have no calls: it is not chosen. Absent: it is not so. */
  15: optional Withholding drained
  /** Absent: it is registered. */
  16: optional Held held
}

struct InstancesReply {
  /** The newest version first. */
  1: required list<Instance> instances
  2: required Freshness freshness
  /** Where the next page begins; absent on the last page. */
  3: optional string cursor
  /** Whether some instances of the service are held, since too many vanished at once. */
  4: optional bool isProtected
}

struct ExplainRequest {
  /** Without a version. Absent: no instances, but all nodes that are to register some, and cannot be read. */
  1: optional string serviceName
  /** Only this one: the address of one of its endpoints (`host:port`), or the id of a master. */
  2: optional string instance
  3: optional i64 maxAgeMs
  /** At most this many. Absent, or 0: as many as a page may hold. */
  4: optional i32 limit
  /** The `cursor` of the page before. */
  5: optional string cursor
}

/** A node that registers an instance, or is to. */
struct ExplainedNode {
  /** The name of the source. */
  1: required string source
  /** The format, as `[[services]]` has it. */
  2: required string decoder
  /** Absent where the client may not read it, as what follows. */
  3: optional string path
  4: optional Stat stat
  /** Nodes that change what this one registers: configurators, vectors, a leader. */
  5: optional list<string> rules
  /** Why it cannot be read. */
  6: optional string error
}

/** An instance, and what is done with it. */
struct ExplainedInstance {
  1: required Instance instance
  /** Whether `resolve` chooses among those that it is one of, where nothing more is asked for. */
  2: required bool served
  /** Why, or why not, in words; what decides first. */
  3: required list<string> reasons
  /** What registers it; of a master none. The first is what is listed, the others stand behind it. */
  4: required list<ExplainedNode> nodes
  /** How many more register it, which are too many, or too long, to be told. */
  5: optional i32 moreNodes
}

struct ExplainReply {
  /** The newest version first. */
  1: required list<ExplainedInstance> instances
  /** Nodes that are to register an instance of the service, and cannot be read; with the first page. Of all services: in
   *  the order of their paths, over all pages. */
  2: required list<ExplainedNode> undecodable
  /** How many there are more of these; of all services: that the client may not read. */
  3: required i32 moreUndecodable
  /** What sources that supply instances wait for or suffer from. */
  4: required list<string> sources
  5: required Freshness freshness
  /** Where the next page begins; absent on the last page. */
  6: optional string cursor
}

/** What happened to an instance, or to what is told of them. A client may not know all. */
enum HistoryEvent {
  APPEARED = 1,
  CHANGED = 2,
  VANISHED = 3,
  /** A node is to register an instance, and cannot be read. */
  UNDECODABLE = 4,
  /** All that a source holds is known for the first time, and is not told one by one. */
  READ = 5,
  /** The sidecar began, */
  STARTED = 6,
  /** or was stopped. */
  STOPPED = 7,
  /** Entries that are not kept any more, or were not made. */
  OMITTED = 8,
  /** No node registers an instance any more, and the guard has it served all the same, */
  HELD = 9,
  /** until one does. */
  RETURNED = 10,
  /** The callers of an instance reported failures: it is not chosen, */
  EJECTED = 11,
  /** until it is again. */
  ADMITTED = 12,
  /** An administrator wants an instance to have no calls, */
  DRAINED = 13,
  /** or no longer. */
  UNDRAINED = 14
}

/** What became of an instance, when, and why. */
struct HistoryEntry {
  /** Greater than that of the entry before, also across restarts. */
  1: required i64 number
  /** When it was noticed, ms since 1970. */
  2: required i64 time
  /** The revision that has it. */
  3: required i64 revision
  4: required HistoryEvent event
  /** Absent: it is of no service alone. */
  5: optional string serviceName
  6: optional string version
  /** The address of its endpoint, or the id of a master, perhaps cut. Absent: it is of no instance alone. */
  7: optional string instance
  /** The name of the source. */
  8: optional string source
  /** The node that registers it; absent also where the client may not read it. */
  9: optional string path
  /** In words. */
  10: required string why
  /** How many it stands for. Absent: one. */
  11: optional i64 count
}

struct HistoryQuery {
  /** Absent: of all services that the client may see. */
  1: optional string serviceName
  /** Of this instance alone, as its entries have it. */
  2: optional string instance
  /** Not before, ms since 1970. */
  3: optional i64 sinceMs
  /** Those after the entry of this number: the `cursor` of the page before. */
  4: optional i64 after
  /** At most this many. Absent, or 0: as many as a page may hold. */
  5: optional i32 limit
}

struct HistoryReply {
  /** The oldest first. */
  1: required list<HistoryEntry> entries
  /** To pass as `after` for the next page, or for what comes later. */
  2: required i64 cursor
  /** True: there are more already. A page may be empty and not the last. */
  3: required bool hasMore
  /** Why it does not survive a restart just now; absent: it does, or is kept in no file. */
  4: optional string notWritten
}

/** What became of one master. */
struct MasterChange {
  1: required string id
  /** Against the revision asked for. */
  2: required ChangeKind kind
  /** The master as it is now; absent when it is gone. */
  3: optional Master master
}

struct WatchMastersRequest {
  /** As in WatchRequest. */
  1: optional i64 since
  2: optional i64 maxAgeMs
  3: optional i32 timeoutMs
  4: optional i32 limit
}

struct MastersWatchReply {
  /** As in WatchReply, for masters. */
  1: required list<MasterChange> changes
  /** True: read anew, with `masters`. */
  2: required bool reset
  3: required Freshness freshness
}

/** How arguments, values and messages are written. */
enum Encoding {
  /** JSON text. Bytes that are not UTF-8 come as {"base64": "…"}; numbers keep 64 bits. */
  JSON = 1,
  /** MessagePack bytes: binary data and numbers stay as they are. */
  MSGPACK = 2
}

/** A command of the application's own that a master sent to the register. */
struct MasterMessage {
  1: required string masterId
  /** When it came, ms since 1970. */
  2: required i64 receivedAt
  /** The whole command, a map with the key `cmd`. */
  3: required binary message
}

struct WatchMessagesRequest {
  /** The cursor of the reply before. Absent, or 0: none, so that all that is kept is the answer, at once. */
  1: optional i64 since
  /** At most this long, and no longer than `max_watch` of the sidecar. Absent: 10 s. */
  2: optional i32 timeoutMs
  /** At most this many messages at a time. Absent, or 0: as many as a reply may hold. */
  3: optional i32 limit
  /** Of the messages. Absent: JSON. */
  4: optional Encoding encoding
}

struct MessagesReply {
  /** What came after the cursor, the oldest first; empty when the time ran out. */
  1: required list<MasterMessage> messages
  /** The cursor to pass as `since` next time. */
  2: required i64 cursor
  /** How many came between the two cursors and cannot be given: they are not kept any more, are larger than half of
   *  `max_reply`, or hold NaN or INF where JSON is asked for. Also those of masters that the client may not know of. */
  3: required i64 missed
  /** True: the cursor is of an earlier process, and nobody knows what was missed before these messages. */
  4: required bool reset
}

/** How one is chosen among those that will do. One of the weight 0 never is. */
enum Balance {
  /** Of two random ones, the one with fewer calls under way, which are counted of masters alone. */
  LEAST_OUTSTANDING = 1,
  /** One after the other, whatever they weigh. */
  ROUND_ROBIN = 2,
  /** Each as often as its weight among theirs. */
  RANDOM = 3,
  /** The same one for the same `key`, as long as it is there. Of all keys, each has as many as its weight among theirs. */
  CONSISTENT_HASH = 4,
  /** Of two random ones, the one whose metadata report less `load`: a number, 0 where there is none. */
  LEAST_LOAD = 5
}

/** Which instance of a service is wanted, and how it is chosen. */
struct ResolveRequest {
  /** `name@1.2.0` is the name in just that version. */
  1: required string serviceName
  /** A requirement, as in Call; or a text that nodes give as their version and that is none by semver, such as
   *  `1.0.0.daily`: this one is met by nothing else. Absent: the newest version of which one can be called. */
  2: optional string version
  /** As in ServiceQuery. */
  3: optional string group
  4: optional string zone
  5: optional map<string, string> metadata
  /** Absent: CONSISTENT_HASH with a key, else RANDOM. */
  6: optional Balance balance
  /** For CONSISTENT_HASH, at most 1,024 bytes, whichever they are. */
  7: optional binary key
  /** The zone of the caller: as long as five of seven instances there can be called, none elsewhere is chosen; of fewer,
   *  some calls go elsewhere; where there is none, all. */
  8: optional string preferZone
  /** Choose among this many, the same for the same `subsetKey` as long as they are there. Absent: among all. */
  9: optional i32 subset
  /** Who chooses, at most 1,024 bytes, whichever they are: the name of a host. */
  10: optional binary subsetKey
  11: optional i64 maxAgeMs
  /** Instances that are not chosen, as if they were not there, since a call of them has just failed: at most 64, each by its
   *  address, as a CallReport has it. */
  12: optional list<string> exclude
}

struct ResolveReply {
  1: required Instance instance
  2: required Freshness freshness
  /** As in InstancesReply. */
  3: optional bool isProtected
}

struct ResolveManyRequest {
  /** At most 64. Their `maxAgeMs` says nothing. */
  1: required list<ResolveRequest> requests
  2: optional i64 maxAgeMs
}

/** What one of several requests came to. */
struct ResolveOutcome {
  /** Absent: there is none. */
  1: optional Instance instance
  /** Why there is none; or that a source is not known yet that may have one. */
  2: optional string error
  /** As in InstancesReply. */
  3: optional bool isProtected
}

struct ResolveManyReply {
  1: required list<ResolveOutcome> outcomes
  2: required Freshness freshness
}

/** What a call of an instance came to, as its caller reports it. */
struct CallReport {
  1: required string serviceName
  /** `host:port` of the endpoint of the service itself, an address of IPv6 in brackets; or the id of a master. */
  2: required string address
  3: required bool ok
  /** How long it took. */
  4: optional i32 durationMs
}

struct ReportRequest {
  /** At most 256, in the order in which the calls ended. */
  1: required list<CallReport> reports
}

struct ReportReply {
}

struct DrainRequest {
  1: required string serviceName
  /** `host:port` of an instance, as a CallReport has it; the id of a master; or a host, of which each instance is drained, also
   *  one that comes later. */
  2: required string target
  /** For how long: from 1 s to 30 days. */
  3: required i64 durationMs
  /** At most 256 bytes. */
  4: optional string reason
}

struct UndrainRequest {
  1: required string serviceName
  /** As it was drained. */
  2: required string target
}

struct DrainReply {
  /** How it is drained; of `undrain`, how it was. */
  1: required Withholding drained
  /** Why a restart would forget it; absent: none does. */
  2: optional string unkept
}

struct WithheldQuery {
  /** Absent: of all services. */
  1: optional string serviceName
}

/** What is withheld of a service. */
struct WithheldTarget {
  1: required string serviceName
  /** As a DrainRequest has it. It need not be there now. */
  2: required string target
  3: optional Withholding ejected
  4: optional Withholding drained
}

struct WithheldReply {
  /** What is drained, and then what is ejected. */
  1: required list<WithheldTarget> withheld
  /** How many more there are, for which a reply has no room. */
  2: required i32 more
}

/** One call of a method. */
struct Call {
  /** `name@1.2.0` is the name in just that version. */
  1: required string serviceName
  2: required string method
  /** A list, or an object by parameter name. Absent, or empty: no arguments. */
  3: optional binary arguments
  /** Of the arguments and the values. Absent: JSON. */
  4: optional Encoding encoding
  /** The master that it is for. Absent: one of those that offer the service. */
  5: optional string masterId
  /** Only on a master that offers the service with these metadata, at most 8, as in ServiceQuery. Not with `masterId`. */
  6: optional map<string, string> metadata
  /** A requirement of versions as Composer writes them: `^1.2`, `~1.2.3`, `1.2.*`, `>=1.2 <2.0 || ^3.0`; `1.2.3` is that
   *  version and no other. At most 256 bytes and 32 alternatives. Absent: the newest version there is; for `callAll`,
   *  any version. */
  7: optional string version
  /** Absent: LEAST_OUTSTANDING. */
  8: optional Balance balance
  /** For CONSISTENT_HASH, at most 1,024 bytes, whichever they are. */
  9: optional binary key
  /** How long all attempts may take together. Absent: 5 s. */
  10: optional i32 timeoutMs
  /** How often it may be tried again, each time on another master. Only where that is safe: the call was not sent, or
   *  it is `idempotent`. Absent: 2. */
  11: optional i32 retries
  /** Whether it does no harm to execute it twice. Absent: it may. */
  12: optional bool idempotent
  /** Whether every value of a method that gives many is wanted. Absent: the last one alone. */
  13: optional bool allValues
}

struct CallResult {
  /** What the method gave: nothing for null, one value, or with `allValues` as many as it gave, nulls among them. */
  1: required list<binary> values
  /** The id of the master that answered. */
  2: required string masterId
  3: required i64 durationUs
  /** How many masters were tried. */
  4: required i32 attempts
}

/** How a call came to its end. */
struct CallCompletion {
  /** The id of the master that answered. */
  1: required string masterId
  2: required i64 durationUs
  /** How many masters were tried. */
  3: required i32 attempts
}

/** For the call that the connection has open. */
struct NextValuesRequest {
}

/** What has come of a call whose values are fetched as they come. */
struct CallValues {
  /** What the method gave since the last time, nulls among it; empty at the end alone. */
  1: required list<binary> values
  /** How the call ended, and with these values; absent: there may be more. */
  2: optional CallCompletion completion
}

struct SendValuesRequest {
  /** Written as the `encoding` of the call says. */
  1: optional list<binary> values
  /** Whether there are no more after them. Absent: there may be. */
  2: optional bool isLast
}

/** What became of values that were sent to a call. */
struct SentValuesReply {
  /** How many of them were taken; those after them are to be sent again. */
  1: required i32 accepted
  /** What the method has given meanwhile. */
  2: required CallValues values
}

enum CallErrorKind {
  NO_MASTER = 1,
  FAILED = 2,
  TIMED_OUT = 3,
  OVERLOADED = 4,
  /** The call itself made no sense. */
  INVALID = 5,
  /** The client may not make this call. */
  DENIED = 6
}

/** As the exceptions below, where several calls each have an outcome. */
struct CallError {
  1: required CallErrorKind kind
  2: required string message
  3: optional string className
  4: optional i64 code
  /** See CallFailed. */
  5: optional bool lost
}

/** What one of several calls came to: a result or an error. */
struct CallOutcome {
  /** Absent where no master was reached. */
  1: optional string masterId
  2: optional CallResult result
  3: optional CallError error
}

struct CallsRequest {
  1: required list<Call> calls
}

struct CallsReply {
  1: required list<CallOutcome> outcomes
}

struct BroadcastRequest {
  /** A map with the key `cmd`. */
  1: required binary message
  /** Of the message. Absent: JSON. */
  2: optional Encoding encoding
}

/**
 * Where a register is. A host that begins with "tls://" is spoken to by TLS; "unix:///path", with the port 1, is a Unix
 * socket.
 */
struct RegisterAddress {
  1: required string host
  2: required i32 port
}

struct RegistersRequest {
  /** At most 64. */
  1: required list<RegisterAddress> registers
}

/** What became of a command. */
struct CommandReply {
  /** To how many masters it was sent; of addRegisters and removeRegisters, also to how many sidecars that follow this one. */
  1: required i32 masters
  /**
   * For how many other masters it was passed to the registers that know them. A register may refuse it, which its own log
   * says.
   */
  2: optional i32 passed
}

struct GuardQuery {
  /** Only this service. */
  1: optional string serviceName
  /** At most this many. Absent, or 0: as many as a page may hold. */
  2: optional i32 limit
  /** The `cursor` of the page before. */
  3: optional string cursor
}

/** A service of which instances are held, or of which all are let go that vanish. */
struct GuardedService {
  1: required string name
  /** How many instances nodes register, */
  2: required i32 registered
  /** how many are held beside these, and of those, how many answer and how many are silent. */
  3: required i32 held
  4: required i32 answering
  5: required i32 silent
  /** Since when some are held, and until when at most, ms since 1970; absent: none are. */
  6: optional i64 since
  7: optional i64 endsAt
  /** For how much longer all are let go that vanish; absent: they are not. */
  8: optional i64 acceptedMs
}

struct GuardReply {
  /** In the order of their names. */
  1: required list<GuardedService> services
  /** Where the next page begins; absent on the last page. */
  2: optional string cursor
}

enum GuardAction {
  /** Let go what is held. */
  RELEASE = 1,
  /** The same; and whatever vanishes for a time is gone at once. */
  ACCEPT = 2
}

struct GuardControl {
  1: required string serviceName
  2: required GuardAction action
  /** Of RELEASE: only the instances at these, each as `host:port`; at most 1,024. Absent, or empty: all. */
  3: optional list<string> addresses
  /** Of ACCEPT: for how long, at most a day. Absent: only what is held now. */
  4: optional i64 forMs
}

struct GuardControlReply {
  /** How many instances were let go. */
  1: required i32 released
}

struct StatsRequest {
}

/** What was counted of one method. */
struct MethodStats {
  1: required string serviceName
  2: required string method
  3: required i64 calls
  /** By what they came to: */
  4: required i64 failed
  5: required i64 timedOut
  6: required i64 lost
  7: required i64 refused
  /** Attempts beyond the first. */
  8: required i64 retries
  /** Under way now. */
  9: required i64 outstanding
  /** Of calls that were answered, in microseconds: */
  10: required i64 minUs
  11: required i64 meanUs
  12: required i64 maxUs
  /** How many took at most 1, 2, 5, 10, 20, 50, 100, 200, 500 ms, 1, 2, 5 s, and longer. */
  13: required list<i64> histogram
}

struct StatsReply {
  1: required list<MethodStats> methods
}

/** What a source fills the snapshot with. */
enum Supply {
  NODES = 1,
  INSTANCES = 2
}

/** Something that fills the snapshot. */
struct SourceStatus {
  1: required string name
  /** `zookeeper`, `file`, `upstream`, `learned` (an upstream that another had it join) or `register`. */
  2: required string kind
  /** `connecting`, `syncing`, `live` or `down`. */
  3: required string state
  /** What it is waiting for or suffers from, in words; empty when all is well. */
  4: required string detail
  /** The paths of which it supplies nodes. */
  5: required list<string> roots
  /** The ZooKeeper session, in hexadecimal. */
  6: optional string session
  /** When it was last known to be in sync, ms since 1970; absent if it never was. */
  7: optional i64 lastSync
  /** As in Freshness; absent if it never was in sync. */
  8: optional i64 ageMs
  /** How many nodes of its are in the snapshot, */
  9: required i64 nodes
  /** and how many bytes their paths and data have. */
  10: required i64 bytes
  /** How often it lost its source and found it again. */
  11: required i64 reconnects
  /** How many nodes it was not allowed to read, or left out because a limit was passed. */
  12: required i64 skippedNodes
  /** Differences that only an audit found, and no event reported. */
  13: required i64 drift
  /** What it fills the snapshot with. */
  14: optional list<Supply> supplies
}

/** What a worker's process is doing, by supervisord's names. */
enum WorkerState {
  /** It was asked to stop. */
  STOPPED = 1,
  /** Its process is not ready yet. */
  STARTING = 2,
  RUNNING = 3,
  /** Its process failed or cannot be had, and the next one waits. */
  BACKOFF = 4,
  /** Its process was asked to end. */
  STOPPING = 5,
  /** Its process ended, and is not to be started again. */
  EXITED = 6,
  /** Its processes failed too often: it waits for START. */
  FATAL = 7
}

/** One place of a `[[worker]]`, in which the sidecar keeps a process alive. */
struct Worker {
  /** Its group and its number: `web/1`. */
  1: required string name
  /** The name of the `[[worker]]`. */
  2: required string group
  3: required i32 number
  4: required WorkerState state
  /** When it came into this state, ms since 1970. */
  5: required i64 sinceMs
  /** How many processes it has had beside the first. */
  6: required i64 restarts
  /** Why the process before this one is no more, or why there is none; empty: nothing happened. */
  7: required string why
  /** Absent: it has no process. */
  8: optional i32 pid
  /** Its processes that were replaced, and still end what they have under way. Absent: none. */
  9: optional list<i32> retiring
  /** How much memory the process has in use, in bytes, and how long it has had a processor: where the query asks for it, and
   *  the kernel tells. */
  10: optional i64 memoryBytes
  11: optional i64 processorMs
  /** How many calls to it are under way from here, and which has been for longest; absent: it has not connected, or none is. */
  12: optional i32 calls
  /** `service.method`; or the job that it performs, if that began before: `queue/name id`, or `a job` for who may not look at those
   *  of its queue; perhaps cut, */
  13: optional string doing
  /** and since when, ms since 1970. */
  14: optional i64 doingSinceMs
  /** The id of the job that it performs, for who may look at it. */
  15: optional i64 job
}

struct WorkersQuery {
  /** Only those of this group, */
  1: optional string group
  /** and of this number. */
  2: optional i32 number
  /** At most this many. Absent, or 0: as many as a page may hold. */
  3: optional i32 limit
  /** The `cursor` of the page before. */
  4: optional string cursor
  /** Whether the memory and time of the processes are read too. Absent: they are not. */
  5: optional bool usage
}

struct WatchWorkersRequest {
  /** The cursor of the reply before. Absent, or 0: none, so that all workers are the answer, at once. */
  1: optional i64 since
  /** At most this long, and no longer than `max_watch` of the sidecar. Absent: 10 s. */
  2: optional i32 timeoutMs
  /** At most this many workers at a time. Absent, or 0: as many as a reply may hold. */
  3: optional i32 limit
}

struct WorkersWatchReply {
  /** The workers whose state, process or reason is another than at the cursor, as they are now; the last one to change last. */
  1: required list<Worker> changes
  /** The names of those that are no more. */
  2: required list<string> removed
  /** The cursor to pass as `since` next time. */
  3: required i64 cursor
  /** True: what changed since the cursor is not known. Forget all workers: those that there are follow, from these on. */
  4: required bool reset
}

struct WorkersReply {
  /** By groups as the configuration has them, and their numbers. */
  1: required list<Worker> workers
  /** Where the next page begins; absent on the last page. */
  2: optional string cursor
}

/** What is done with workers. */
enum WorkerAction {
  /** Start those that do not run, and wait until they are ready or have failed. */
  START = 1,
  /** Ask them to end, and wait until they have, also those that were replaced before. */
  STOP = 2,
  /** Stop and start; the clients of their sockets wait meanwhile. */
  RESTART = 3,
  /**
   * Put a new process in the place of each once it is ready, one after the other. The first that does not become ready ends
   * that, and what ran goes on. Those that are stopped stay so.
   */
  ROLL = 4,
  /** Have `count` of them, and wait until new ones are ready, and those too many have ended. */
  SCALE = 5,
  /** Send `signal` to the process of each. */
  SIGNAL = 6,
  /** Kill what there is, also what was asked to end already, and leave it stopped. */
  KILL = 7
}

struct WorkerControl {
  1: required string group
  /** Absent: all of the group. */
  2: optional i32 number
  3: required WorkerAction action
  /** Of SCALE, from 1 to 1,000. */
  4: optional i32 count
  /** Of SIGNAL: its name, with or without `SIG`. */
  5: optional string signal
  /** How long to wait until it is done, at most an hour. Absent: a minute. */
  6: optional i32 timeoutMs
  /** Of SCALE: whether the sidecar has as many again when it is started again. Absent: it has as the configuration says. */
  7: optional bool save
}

/** What came of it for one worker. */
struct WorkerOutcome {
  1: required string name
  /** Why it could not be done; absent: it is done. */
  2: optional string error
}

struct WorkerControlReply {
  /** Of each that something was done with; of ROLL, up to the first that did not become ready. */
  1: required list<WorkerOutcome> outcomes
  /** True: the time ran out, and nothing is known of the outcomes. What was asked for goes on. */
  2: required bool timedOut
  /** Why it could not be saved, or not be forgotten; absent: it is, or was not to be. */
  3: optional string notSaved
  /** Of `removeWorker`: true, where the configuration has it, so that it is there again when the sidecar is started again. */
  4: optional bool isConfigured
}

/** A worker that is added to those of the configuration. */
struct WorkerAddition {
  /** Its settings, an object of JSON with the keys of a `[[worker]]`: `name` and `command` are required. At most 64 KiB. */
  1: required string settings
  /** Whether it is there again when the sidecar is started again. */
  2: optional bool save
  /** How long to wait until its processes are ready or have failed, at most an hour. Absent: a minute. */
  3: optional i32 timeoutMs
}

struct WorkerRemoval {
  /** The name of the `[[worker]]`, or of one that was added. */
  1: required string group
  /** True: it goes on, and only is not there when the sidecar is started again, unless the configuration has it. */
  2: optional bool savedOnly
  /** How long to wait until it is gone, at most an hour. Absent: a minute. */
  3: optional i32 timeoutMs
}

struct WorkerOutputQuery {
  1: required string group
  /** Absent: all of the group. */
  2: optional i32 number
  /** Only what came after the line of this number. Absent: all that is kept. */
  3: optional i64 after
}

/** A line that a worker's process printed. */
struct WorkerLine {
  /** Each of a group is one more than the one before. They begin anew with the sidecar. */
  1: required i64 number
  /** When it was read, ms since 1970. */
  2: required i64 time
  /** Of which worker: `web/1`. */
  3: required string worker
  /** Whether it was printed to standard error. */
  4: required bool isError
  /** Without its end; what is not UTF-8 is replaced. */
  5: required string text
}

struct WorkerOutputReply {
  1: required list<WorkerLine> lines
  /** The number of the group's last line, to pass as `after` next time. */
  2: required i64 last
  /** How many of the group's lines after `after` are not kept any more. */
  3: required i64 missed
}

/** A command for workers, which they answer as a method answers a call. */
struct WorkerCommand {
  /** Absent: the workers of all groups. */
  1: optional string group
  /** Absent: all of the group. */
  2: optional i32 number
  /** `ping`, `status`, or one of the application's own, of at most 256 bytes. */
  3: required string name
  /** What the command is given. Absent, or empty: null. */
  4: optional binary data
  /** Of the data and the answers. Absent: JSON. */
  5: optional Encoding encoding
  /** How long each worker may take. Absent: 5 s. */
  6: optional i32 timeoutMs
}

/** What one worker answered. */
struct WorkerAnswer {
  /** Which: `web/1`. */
  1: required string worker
  /** What the command gave, of many values the last; absent: nothing, or there is an error. */
  2: optional binary value
  /** Why there is no answer; absent: there is one. */
  3: optional string error
  /** The class of the worker's exception. */
  4: optional string className
}

struct WorkerCommandReply {
  /** Of each worker that was meant, in the order of `workers`. */
  1: required list<WorkerAnswer> answers
}

/** Where a job is. One in a state that is not known here is not to be counted on. */
enum JobState {
  WAITING = 1,
  /** It is not performed before its time. */
  DELAYED = 2,
  /** Somebody has it, as long as the lease lasts. */
  RUNNING = 3,
  /** It failed too often, was lost three times with whoever had it, or was buried. It is kept for a time. */
  DEAD = 4,
  /** It is done, and kept with its result for a time. */
  DONE = 5
}

/** How long a job has its unique key. */
enum UniqueUntil {
  /** Until it is handed out for the first time. */
  START = 1,
  /** Until it is done, dead or cancelled. */
  SUCCESS = 2
}

/** A job to be enqueued. */
struct NewJob {
  /** At most 128 bytes, without control characters. A queue is there as soon as it has a job. */
  1: required string queue
  /** What is to be done, the application's own word; at most 255 bytes. */
  2: required string name
  /** The application's own. Absent: empty. */
  3: optional binary payload
  /** For how long it is not performed, at most 366 days. Absent: it is at once. */
  4: optional i64 delayMs
  /** From 0, the most urgent, to 9. Absent: 5, as it has to be in Redis, whose queues have no order by it. */
  5: optional i32 priority
  /** No other job of the queue with the same key is enqueued meanwhile; at most 255 bytes. */
  6: optional string uniqueKey
  /** Absent: until SUCCESS. */
  7: optional UniqueUntil uniqueUntil
  /** How often it is tried again that fails, at most 1,000. Absent: as `queue.retries` says. */
  8: optional i32 retries
  /** How long one attempt may take, at most a day. Absent: as `queue.timeout` says. */
  9: optional i64 timeoutMs
  /** Jobs with the same one share the limits that `[[queue.limit]]` has with `key`; at most 255 bytes. */
  10: optional string limitKey
  /** How long it is kept with its result once it is done, at most 366 days. Absent: as `queue.keep_results` says. */
  11: optional i64 keepResultMs
}

struct EnqueueRequest {
  /** At most 1,000. */
  1: required list<NewJob> jobs
}

struct EnqueuedJob {
  1: required i64 id
  /** False: another job has its unique key, and this is that one's id. */
  2: required bool isNew
}

struct EnqueueReply {
  /** In the order of the request. All of them are on the disk, or in Redis. */
  1: required list<EnqueuedJob> jobs
  /** True: Redis is away, and they wait on this host until it has them, if `queue.buffer` says so. */
  2: optional bool isBuffered
}

/** How far a job is that somebody performs. */
struct JobProgress {
  /** From 0 to 100. */
  1: required i32 percent
  /** For people, cut after 256 bytes. */
  2: optional string note
  /** When that was reported, ms since 1970. It is not read in an update. */
  3: optional i64 reportedAt
}

/** A job as it stands. Times are in ms since 1970. */
struct Job {
  1: required i64 id
  2: required string queue
  3: required string name
  4: required binary payload
  5: required JobState state
  6: required i32 priority
  /** How often it was handed out. */
  7: required i32 attempt
  /** How often that failed. */
  8: required i32 failures
  /** How often it may fail and be tried again. */
  9: required i32 retries
  10: required i64 timeoutMs
  11: required i64 enqueuedAt
  /** When it is due (DELAYED), its lease ends (RUNNING), it died (DEAD), or it is forgotten (DONE). */
  12: optional i64 stateAt
  /** Why it failed last; of one that is DONE, why its result is not kept. */
  13: optional string error
  /** How far it is, while somebody has it and says so. Absent also after a restart of the sidecar. */
  14: optional JobProgress progress
  /** What it returned, of one that is DONE, which has no payload any more. */
  15: optional binary result
  /** True: it waits on the sidecar's host until Redis has it, as in `EnqueueReply`. */
  16: optional bool isBuffered
  /** The key that no other job of the queue may have now. Absent: none, or no more. */
  17: optional string uniqueKey
  /** As it was enqueued. */
  18: optional string limitKey
  /** Of one that recurs: for which time of its schedule it was enqueued, perhaps later. */
  19: optional i64 dueAt
  /** Which worker of the sidecar has it, `mail/2`, and in which process, for who may perform it, while it is RUNNING. Absent:
      none; a client took it, or another host may have it. */
  20: optional string worker
  21: optional i32 pid
}

struct TakeJobsRequest {
  /** Jobs of an earlier one come before those of a later one; at most 64. */
  1: required list<string> queues
  /** At most this many. Absent: one. */
  2: optional i32 limit
  /** How long the lease lasts; of more than a day, a day. Absent: as long as the timeout of each job, 5 s at least. */
  3: optional i64 leaseMs
  /** How long to wait for the first one, at most `max_watch` of the sidecar. Absent: not at all. */
  4: optional i32 waitMs
  /**
   * In the order of `queues`, each from 1 to 100: of those that have jobs, one of 3 gives three times as many as one of 1, by
   * turns, also over many requests. Absent: a later queue gives none while an earlier one has any.
   */
  5: optional list<i32> weights
}

struct TakeJobsReply {
  /** Each is for this client alone, until its `stateAt`. Empty: there was none. */
  1: required list<Job> jobs
}

/** What becomes of an attempt. */
enum JobAction {
  /** It is done, and gone unless its result is kept. */
  DONE = 1,
  /** It failed: it is tried again after a while, or is dead. */
  FAIL = 2,
  /** It is given back, which is no failure. */
  RELEASE = 3,
  /** It is dead. */
  BURY = 4,
  /** It takes longer: the lease lasts from now on. */
  TOUCH = 5,
  /** Whoever asks for the job is told how far it is. The lease goes on as it was. */
  PROGRESS = 6
}

struct JobUpdate {
  1: required i64 id
  /** That of the job as it was taken: another one may have it by now. */
  2: required i32 attempt
  3: required JobAction action
  /** Of RELEASE: for how long it is not performed. */
  4: optional i64 delayMs
  /** Of FAIL and BURY: why, cut after 1,024 bytes. */
  5: optional string error
  /** Of TOUCH: how long the lease lasts; of more than a day, a day. Absent: as long as the timeout of the job, 5 s at least. */
  6: optional i64 leaseMs
  /** Of PROGRESS, and required for it. */
  7: optional JobProgress progress
  /**
   * Of DONE: what it returned, which is kept as long as the job says, if it is no larger than `queue.max_job_bytes` and there is
   * room for it.
   */
  8: optional binary result
}

struct JobUpdateReply {
  /** Of TOUCH: until when the lease lasts, ms since 1970. */
  1: optional i64 leaseEndsAt
}

struct JobQuery {
  1: required i64 id
}

struct JobReply {
  1: required Job job
}

struct CancelJobReply {
}

struct QueuesQuery {
  /** At most this many. Absent, or 0: as many as a page may hold. */
  1: optional i32 limit
  /** The `cursor` of the page before. */
  2: optional string cursor
}

/** A queue as it stands. */
struct QueueSummary {
  1: required string name
  2: required bool isPaused
  3: required i64 waiting
  4: required i64 delayed
  5: required i64 running
  6: required i64 dead
  /** What all its jobs are charged for. */
  7: required i64 bytes
  /** When the oldest job was enqueued that waits, ms since 1970. In Redis: the first of the queue; or, where it does not tell,
      since when it has been seen there. Absent: none waits, or that is not known. */
  8: optional i64 oldestWaiting
  /** How many jobs were enqueued in the last minute, where that is counted: not in Redis; */
  9: optional i64 enqueuedInLastMinute
  /** and how many were done. */
  10: optional i64 doneInLastMinute
  /** How many wait on this host until Redis has them, and are in none of the other numbers; absent: none; */
  11: optional i64 buffered
  /** and when the oldest of them was enqueued. */
  12: optional i64 bufferedSince
  /** How many are kept for their results. */
  13: optional i64 done
  /** How many of those that wait a `[[queue.limit]]` holds back: all, or those that were passed over for their `limitKey` when it
      was last looked for a job, among the first 1,000; absent: none, as far as is known. */
  14: optional i64 limited
  /** How many processes of the sidecar's workers perform it; those of other hosts, which may do so in Redis, are not known here; */
  15: optional i32 workers
  /** and how many clients have a `takeJobs` for it under way here. */
  16: optional i32 clients
  /** How many attempts have failed in the last ten minutes whose jobs are tried again; in Redis, those of this sidecar alone; absent:
      none. */
  17: optional i64 failedLately
}

struct QueuesReply {
  /** In the order of their names. */
  1: required list<QueueSummary> queues
  /** Where the next page begins; absent on the last page. */
  2: optional string cursor
  /** What is wrong with the file of the queues, or was when they were opened. */
  3: optional string trouble
}

struct PeekJobsRequest {
  1: required string queue
  2: required JobState state
  /** At most this many. Absent, or 0: as many as a page may hold. */
  3: optional i32 limit
  /** The `cursor` of the page before. */
  4: optional binary cursor
}

struct JobsReply {
  /** In the order in which they are performed, are due, or died. */
  1: required list<Job> jobs
  /** Where the next page begins; absent on the last page. */
  2: optional binary cursor
}

enum QueueAction {
  /** Its jobs are handed out no more, until */
  PAUSE = 1,
  /** they are again. */
  RESUME = 2,
  /** Its jobs in `state` are removed. */
  PURGE = 3,
  /** Its dead jobs, or the one with `id`, wait again as if they were new. One whose key another job of the queue has, or
      which had it until `START`, is unique no more. */
  RETRY = 4,
  /** Its jobs that wait, are delayed or dead are in the queue `to` from then on, with their ids. One whose key a job of that
      queue has is unique no more. */
  MOVE = 5
}

struct QueueControl {
  1: required string queue
  2: required QueueAction action
  /** Of PURGE: WAITING, DELAYED or DEAD. */
  3: optional JobState state
  /** Of RETRY. Absent: all that are dead. */
  4: optional i64 id
  /** Of MOVE: another queue, which is there from then on. */
  5: optional string to
}

struct QueueControlReply {
  /** How many jobs that changed. */
  1: required i32 jobs
  /** Whether there are more of them: ask again. */
  2: required bool hasMore
}

struct RecurringJobsQuery {
}

/** A job that is enqueued by the clock, as `[[queue.recurring]]` says. */
struct RecurringJob {
  1: required string name
  2: required string queue
  /** The name of the jobs. */
  3: required string job
  4: required string schedule
  5: required string timeZone
  /** When it is due, ms since 1970. Absent: never. */
  6: optional i64 nextAt
  /** When it was due that was enqueued last, */
  7: optional i64 lastAt
  /** and its id. */
  8: optional i64 lastId
  /** Why one that is due is not enqueued yet. */
  9: optional string trouble
}

struct RecurringJobsReply {
  /** In the order in which they are configured. */
  1: required list<RecurringJob> jobs
}

struct StatusRequest {
}

struct StatusReply {
  /** Of the sidecar. */
  1: required string version
  2: required i64 uptimeMs
  /** Over all sources: the greatest age. */
  3: required Freshness freshness
  4: required list<SourceStatus> sources
  /** Everything that is counted, by name. */
  5: required map<string, i64> counters
  /** The bounds in force, by name. */
  6: required map<string, i64> limits
  /** Why the shared file is not written; absent: it is, or there is to be none. */
  7: optional string sharedFileError
  /** Who the client is, and what it may do, in words. */
  8: optional string access
  /**
   * Ports of the configuration at which the sidecar does not listen, since other processes do: a line for each, with its
   * setting, whose process it is, and the cure. The sidecar tries again until it can. Absent: it listens at all.
   */
  9: optional list<string> portsTaken
  /** INTERFACE_VERSION of the sidecar. */
  10: optional i32 interfaceVersion
  /** What the sidecar can do: the names of its methods. */
  11: optional set<string> capabilities
  /** How many workers are in which state. Absent: there are none, or the client may not see them. */
  12: optional map<WorkerState, i32> workers
  /** Why the directory of `[shared] state` cannot be used, so that no copy of the shared file is kept, and the history and
   *  what is drained do not outlast a restart. Absent: it can, or there is to be none. */
  13: optional string stateError
}

/** What is not there. */
enum EntityKind {
  NODE = 1,
  SERVICE = 2,
  MASTER = 3,
  WORKER = 4,
  JOB = 5,
  QUEUE = 6
}

/** There is no such thing. An absence has its freshness too. */
exception NotFound {
  1: required EntityKind kind
  /** The path of the node, the name of the service, worker or queue, or the id of the master or job. */
  2: required string name
  3: required string message
  4: required Freshness freshness
}

/** The source behind the answer has not yet been read as a whole: nothing is known, not even an absence. */
exception NotReady {
  /** The name of the source that is waited for, */
  1: required string source
  /** and what it is doing or suffers from. */
  2: required string message
}

/** The data is older than `maxAgeMs` allows. */
exception TooStale {
  1: required i64 ageMs
  2: required i64 maxAgeMs
  /** Which source is behind, and why. */
  3: required string message
}

/** There is no master for the call: the service is unknown, or nobody alive offers it. */
exception NoMaster {
  1: required string serviceName
  /** Says which. */
  2: required string message
}

/** No instance of the service is as it was asked for, or none can be called. */
exception NoInstance {
  1: required string serviceName
  /** Says what leaves none: the service is unknown, none has such a version, none is in such a zone */
  2: required string message
}

/** The master's own error; or the connection to it was lost with the call under way. */
exception CallFailed {
  1: required string masterId
  2: required string message
  /** The class of the master's exception. */
  3: optional string className
  4: required i64 code
  /** True: the connection was lost, and it is not known whether the call was executed. */
  5: required bool lost
}

/** No answer in time. Whether the call was executed is not known. */
exception CallTimedOut {
  1: optional string masterId
  2: required i32 timeoutMs
  3: required string message
}

/** Too many calls are under way, here or at the master, or the master is leaving; nothing was executed. */
exception Overloaded {
  1: required string message
}

/** The client may not do this. It says so of names, whether there is such a thing or not. */
exception AccessDenied {
  /** Who the client is, what it may not do, and who may or what would allow it. */
  1: required string message
}

/** The request makes no sense as it is. */
exception InvalidRequest {
  /** Which argument, */
  1: required string field
  /** and what is wrong with it. */
  2: required string message
}

service Roster {
  /** One coordination node. */
  NodeReply get(1: GetRequest request)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid,
            5: AccessDenied denied)

  /** Several coordination nodes at one revision. */
  NodesReply getMany(1: GetManyRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** The names of a node's children. What comes or goes between two pages may be among them or not. */
  ChildrenReply children(1: ChildrenRequest request)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid,
            5: AccessDenied denied)

  /** A node and all below it, in pages. */
  SubtreeReply subtree(1: SubtreeRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Waits until something at or below `paths` is newer than revision `since`, and returns what. A revision is returned whole,
   * so there is never a hole: to follow, pass the revision of each reply as the next `since`. The data of a change may
   * already be newer than its revision; that newer change is then returned again.
   */
  WatchReply watch(1: WatchRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** What the sidecar is doing. */
  StatusReply status(1: StatusRequest request)

  /** The masters that are there, in pages. */
  MastersReply masters(1: ServiceQuery request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** One master. */
  MasterReply master(1: MasterRequest request)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid,
            5: AccessDenied denied)

  /** The services that masters offer, in pages. */
  ServicesReply services(1: ServiceQuery request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** The instances of a service, which the query must name, in pages. */
  InstancesReply instances(1: ServiceQuery request)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid,
            5: AccessDenied denied)

  /** One instance of a service that can be called. */
  ResolveReply resolve(1: ResolveRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied,
            10: NoInstance noInstance)

  /** Several at one revision, each of a service: in the order of the requests. */
  ResolveManyReply resolveMany(1: ResolveManyRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Tells what calls of instances came to, so that those that fail are ejected: for a time they are chosen only where no other
   * can be called. To be sent oneway: then nobody waits for an answer. Over TCP, where nobody knows who reports, it says
   * nothing.
   */
  ReportReply report(1: ReportRequest request) throws (4: InvalidRequest invalid)

  /**
   * Has instances drained: they are chosen no more until the time is over, also after a restart. In place of what was said of the
   * same target before. For administrators.
   */
  DrainReply drain(1: DrainRequest request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Has them drained no longer. For administrators. */
  DrainReply undrain(1: UndrainRequest request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** What is drained and ejected, of the services that the client may see. */
  WithheldReply withheld(1: WithheldQuery request) throws (5: AccessDenied denied)

  /** What became of instances, when, and why, in pages. */
  HistoryReply history(1: HistoryQuery request)
    throws (2: NotReady notReady, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Why each instance of a service is served or not, in pages; and which nodes that are to register one cannot be read. */
  ExplainReply explain(1: ExplainRequest request)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid,
            5: AccessDenied denied)

  /** As `watch`, for masters. */
  MastersWatchReply watchMasters(1: WatchMastersRequest request)
    throws (2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Waits until a master connected to this sidecar's register has sent a command of its own after the cursor `since`, and
   * gives what has come: of the newest 1,024 messages, 256 of one master and 4 MiB, which are kept. Given are those of
   * masters that offered a service which the client may see.
   */
  MessagesReply watchMessages(1: WatchMessagesRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Calls a method of a service, on one of the masters that offer it. */
  CallResult call(1: Call request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 7: CallFailed failed,
            8: CallTimedOut timedOut, 9: Overloaded overloaded)

  /** The same, on every master that offers it, in any version or in one that meets `version`: an outcome a master. */
  CallsReply callAll(1: Call request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 9: Overloaded overloaded)

  /** Several calls side by side: their outcomes, in the order of the calls. */
  CallsReply callMany(1: CallsRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /**
   * Several calls on one master, each after the one before has ended: their outcomes, in the order of the calls. It is
   * the master that the first call names, or one of those that offer its service; the others name none, or the same.
   * After one that was lost or came to no end in time, none is sent.
   */
  CallsReply callInOrder(1: CallsRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /**
   * Starts a call whose values are fetched as they come; and waits for the first values, or the end. Every value is
   * given, whatever `allValues` says.
   *
   * The call belongs to its connection, which has one open at most: whoever closes it gives the call up. `timeoutMs` is
   * for all values together. Once a value was given out, no other master is tried. A call fails when more of its values
   * wait to be fetched than fit into a reply, unless its master rests meanwhile, as those of PHP do.
   */
  CallValues startCall(1: Call request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 7: CallFailed failed,
            8: CallTimedOut timedOut, 9: Overloaded overloaded)

  /**
   * What has come since of the call that is open; waits for at least one value, or the end. After the end, or the
   * exception that the call came to, none is open.
   */
  CallValues nextValues(1: NextValuesRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 7: CallFailed failed,
            8: CallTimedOut timedOut, 9: Overloaded overloaded)

  /**
   * As `startCall`, of a method that is sent more values while it goes on; it waits for nothing, and gives none. The
   * method has a parameter of the type `React\Stream\ReadableStreamInterface` (or another that
   * `React\Stream\ThroughStream` is), and the values come on that stream. Only masters of PHP that are connected to this
   * sidecar's own register have such methods. The call is tried on one master and no other.
   */
  CallValues openCall(1: Call request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 7: CallFailed failed,
            8: CallTimedOut timedOut, 9: Overloaded overloaded)

  /**
   * Sends values to the method of the call that `openCall` opened. Waits, within the call's time, while the method takes
   * no more, but not once the method has given something: then those that were not taken are to be sent again.
   */
  SentValuesReply sendValues(1: SendValuesRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 6: NoMaster noMaster, 7: CallFailed failed,
            8: CallTimedOut timedOut, 9: Overloaded overloaded)

  /** Sends a command to every master. */
  CommandReply broadcast(1: BroadcastRequest request) throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Tells every master to connect to these registers as well. */
  CommandReply addRegisters(1: RegistersRequest request) throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Tells every master to leave these registers. */
  CommandReply removeRegisters(1: RegistersRequest request) throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** What was counted of the calls, by method. */
  StatsReply stats(1: StatsRequest request)

  /** The workers: local processes that the sidecar keeps alive. For clients that may read all services, in pages. */
  WorkersReply workers(1: WorkersQuery request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Has something done with workers, and waits until it is. For administrators. */
  WorkerControlReply controlWorkers(1: WorkerControl request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Adds a worker, and starts its processes. What is wrong with its settings is told, and leaves all as it was; where a process
   * does not become ready, it is there all the same. For root and the sidecar's own user, over its Unix socket: whoever adds
   * one has any program run.
   */
  WorkerControlReply addWorker(1: WorkerAddition request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /**
   * Removes a worker: its sockets are closed and its processes end, as many at once as its `surge` says; what was saved of it is
   * forgotten. For root and the sidecar's own user, over its Unix socket.
   */
  WorkerControlReply removeWorker(1: WorkerRemoval request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /** The last lines that the workers of a group printed, which may hold secrets. For administrators. */
  WorkerOutputReply workerOutput(1: WorkerOutputQuery request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Has workers carry out a command, side by side. One that hangs, is stopped or answers what makes no sense costs its own
   * answer and no other. For administrators, of whom each may have 16 such requests under way.
   */
  WorkerCommandReply commandWorkers(1: WorkerCommand request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /**
   * Waits until a worker is in another state, has another process or another reason than at the cursor `since`, or is no more,
   * and tells of it. For clients that may read all services and watch.
   */
  WorkersWatchReply watchWorkers(1: WatchWorkersRequest request) throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** The services of which the guard holds instances, in pages. */
  GuardReply guarded(1: GuardQuery request) throws (4: InvalidRequest invalid, 5: AccessDenied denied)

  /** Has the guard let go what it holds. For administrators. */
  GuardControlReply controlGuard(1: GuardControl request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied)

  /**
   * Enqueues jobs, all of them or none. When it answers, they are on the disk, and are performed at least once. After an error
   * of the connection it is not known whether they were enqueued: a `uniqueKey` makes it safe to do it again.
   */
  EnqueueReply enqueue(1: EnqueueRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Takes jobs to perform them. For those who may perform jobs of each of the queues. */
  TakeJobsReply takeJobs(1: TakeJobsRequest request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Says what became of a job that was taken. One whose lease has ended is a NotFound. For the same. */
  JobUpdateReply updateJob(1: JobUpdate request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** One job, for the user who enqueued it, those who may perform it, and administrators; it is not there for others. */
  JobReply job(1: JobQuery request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Removes a job that nobody performs. For the same. */
  CancelJobReply cancelJob(1: JobQuery request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** The queues that the client may enqueue into or perform jobs of, in pages. */
  QueuesReply queues(1: QueuesQuery request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Jobs of a queue, in pages. For administrators, and those who may perform them. */
  JobsReply peekJobs(1: PeekJobsRequest request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** Pauses, resumes, purges or moves a queue, or has its dead jobs retried. For administrators. */
  QueueControlReply controlQueue(1: QueueControl request)
    throws (1: NotFound notFound, 4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)

  /** The recurring jobs of the queues that the client may enqueue into or perform jobs of. */
  RecurringJobsReply recurringJobs(1: RecurringJobsQuery request)
    throws (4: InvalidRequest invalid, 5: AccessDenied denied, 9: Overloaded overloaded)
}
