<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

use Roster\Thrift;
use Thrift\Exception\TApplicationException;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Transport\TMemoryBuffer;

/** What a fake sidecar answers to one request. */
final class Answer
{
    private const REPLY = 2;
    private const EXCEPTION = 3;

    /**
     * @param object $result what Thrift generated for the result of a method
     * @param int $shift how far the sequence id is from the request's
     * @param int $pauseMs how long it thinks
     * @param ?int $cut how many bytes of the answer it sends; null: all
     * @param bool $close whether it then hangs up
     */
    public static function of(
        object $result,
        int $shift = 0,
        int $pauseMs = 0,
        ?int $cut = null,
        bool $close = false,
    ): array {
        $memory = new TMemoryBuffer();
        $result->write(new TBinaryProtocol($memory));
        $type = $result instanceof TApplicationException ? self::EXCEPTION : self::REPLY;
        $body = base64_encode($memory->getBuffer());
        return compact('type', 'shift', 'pauseMs', 'cut', 'close', 'body');
    }

    /** @param array<string, string> $data by path */
    public static function nodes(array $data, int $ageMs = 0, mixed ...$how): array
    {
        $nodes = array_combine(array_keys($data), array_map(self::node(...), array_keys($data), $data));
        $reply = new Thrift\NodesReply(['nodes' => $nodes, 'freshness' => self::freshness(5, $ageMs)]);
        return self::of(new Thrift\Roster_getMany_result(['success' => $reply]), ...$how);
    }

    /** @param array<string, string> $data by path */
    public static function subtree(int $revision, array $data, ?string $cursor = null, mixed ...$how): array
    {
        $nodes = array_map(self::node(...), array_keys($data), $data);
        $freshness = self::freshness($revision);
        $reply = new Thrift\SubtreeReply(['nodes' => $nodes, 'cursor' => $cursor, 'freshness' => $freshness]);
        return self::of(new Thrift\Roster_subtree_result(['success' => $reply]), ...$how);
    }

    /** @param array<string, ?string> $data by path: what changed, or null for what was deleted; null: a reset */
    public static function watch(int $revision, ?array $data, mixed ...$how): array
    {
        $change = static fn (string $path, ?string $data) => new Thrift\Change([
            'path' => $path,
            'kind' => $data === null ? Thrift\ChangeKind::DELETED : Thrift\ChangeKind::CHANGED,
            'node' => $data === null ? null : self::node($path, $data),
        ]);
        $reply = new Thrift\WatchReply([
            'changes' => array_map($change, array_keys($data ?? []), $data ?? []),
            'reset' => $data === null,
            'freshness' => self::freshness($revision),
        ]);
        return self::of(new Thrift\Roster_watch_result(['success' => $reply]), ...$how);
    }

    public static function freshness(int $revision = 5, int $ageMs = 0): Thrift\Freshness
    {
        $origin = Thrift\Origin::LIVE;
        return new Thrift\Freshness(compact('revision', 'ageMs', 'origin') + ['complete' => true]);
    }

    private static function node(string $path, string $data): Thrift\Node
    {
        $names = ['version', 'czxid', 'mzxid', 'pzxid', 'ctime', 'mtime', 'ephemeralOwner', 'numChildren'];
        $stat = new Thrift\Stat(array_combine($names, range(1, 8)));
        return new Thrift\Node(compact('path', 'data', 'stat'));
    }
}
