/**
 * Roster's interface for local clients. Any dialect is understood on every listener: strict binary or compact
 * protocol, framed or not, method names bare (`get`) or multiplexed (`Roster:get`).
 *
 * Paths are those of ZooKeeper: absolute, `/`-separated, without a slash at the end, below the chroot of the
 * connect string. Times of coordination nodes are in milliseconds since 1970, durations in milliseconds.
 */
namespace php Roster.Thrift
namespace rs roster

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

/** How to read. */
struct ReadOptions {
  /** Refuse with TooStale rather than answer from data older than this. Absent: any age will do. */
  1: optional i64 maxAgeMs
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

struct NodeReply {
  1: required Node node
  2: required Freshness freshness
}

struct NodesReply {
  /** By path; a path without a node is left out. */
  1: required map<string, Node> nodes
  2: required Freshness freshness
}

struct ChildrenReply {
  /** The last parts of the children's paths, in the order of their bytes. */
  1: required list<string> names
  2: required Freshness freshness
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

struct WatchReply {
  /** What changed since the revision asked for, each path once; empty when the time ran out. */
  1: required list<Change> changes
  /** True: what changed since that revision is no longer known (or too much to tell). Read anew, with `subtree`,
   *  and watch since the revision of its first page. Nothing else is told then. */
  2: required bool reset
  /** Its revision is the one to pass as `since` next time. */
  3: required Freshness freshness
}

/** Something that fills the snapshot. */
struct SourceStatus {
  1: required string name
  /** `zookeeper` or `file`. */
  2: required string kind
  /** `connecting`, `syncing`, `live` or `down`. */
  3: required string state
  /** What it is waiting for or suffers from, in words; empty when all is well. */
  4: required string detail
  /** The paths that it mirrors. */
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
  12: required i64 leftOut
  /** Differences that only an audit found, since no event had told of them. */
  13: required i64 drift
}

struct StatusReply {
  1: required string version
  2: required i64 uptimeMs
  /** Over all sources: the greatest age. */
  3: required Freshness freshness
  4: required list<SourceStatus> sources
  /** Everything that is counted, by name. */
  5: required map<string, i64> counters
  /** The bounds in force, by name. */
  6: required map<string, i64> limits
}

/** There is no such coordination node. An absence has its freshness too. */
exception NotFound {
  1: required string path
  2: required string message
  3: required Freshness freshness
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

/** The request makes no sense as it is. */
exception InvalidRequest {
  /** Which argument, */
  1: required string field
  /** and what is wrong with it. */
  2: required string message
}

service Roster {
  /** One coordination node. */
  NodeReply get(1: string path, 2: ReadOptions options)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid)

  /** Several coordination nodes at one revision. */
  NodesReply getMany(1: list<string> paths, 2: ReadOptions options)
    throws (1: NotReady notReady, 2: TooStale tooStale, 3: InvalidRequest invalid)

  /** The names of a node's children. */
  ChildrenReply children(1: string path, 2: ReadOptions options)
    throws (1: NotFound notFound, 2: NotReady notReady, 3: TooStale tooStale, 4: InvalidRequest invalid)

  /**
   * A node and all below it, in pages of at most `limit` nodes (0: as many as a reply may hold).
   * `cursor` is empty for the first page, then what the page before said.
   */
  SubtreeReply subtree(1: string path, 2: i32 limit, 3: string cursor, 4: ReadOptions options)
    throws (1: NotReady notReady, 2: TooStale tooStale, 3: InvalidRequest invalid)

  /**
   * Waits until something at or below `paths` (empty: anywhere) is newer than revision `since`, and tells what;
   * at most `timeoutMs`, and about `limit` changes at a time (0: as many as a reply may hold). A revision is told
   * whole, so there is never a hole: to follow, pass the revision of each reply as the next `since`. The data of
   * a change may already be newer than its revision; that newer change is then told again.
   * `since` 0 answers `reset` at once.
   */
  WatchReply watch(1: i64 since, 2: list<string> paths, 3: i32 timeoutMs, 4: i32 limit)
    throws (1: NotReady notReady, 2: InvalidRequest invalid)

  /** What the sidecar is doing. */
  StatusReply status()
}
