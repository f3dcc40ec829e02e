<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Change;
use Roster\ChangeKind;
use Roster\Freshness;
use Roster\Instance;
use Roster\Master;
use Roster\Node;
use Roster\Origin;
use Roster\Service;
use Roster\Source;
use Roster\Stat;
use Roster\Status;
use Roster\Thrift;
use Roster\Way;

/**
 * Makes this package's values of what Thrift's classes hold.
 *
 * @internal
 */
final class Values
{
    public static function freshness(Thrift\Freshness $told, Way $way): Freshness
    {
        return new Freshness($told->revision, $told->ageMs, Origin::from($told->origin), $told->complete, $way);
    }

    public static function node(Thrift\Node $told, Freshness $freshness): Node
    {
        return new Node($told->path, $told->data, Stat::of(get_object_vars($told->stat)), $freshness);
    }

    public static function change(Thrift\Change $told, Freshness $freshness): Change
    {
        $kind = match ($told->kind) {
            Thrift\ChangeKind::CREATED => ChangeKind::Created,
            Thrift\ChangeKind::CHANGED => ChangeKind::Changed,
            Thrift\ChangeKind::DELETED => ChangeKind::Deleted,
        };
        return new Change($kind, $told->path, $told->node ? self::node($told->node, $freshness) : null, $freshness);
    }

    public static function service(Thrift\Service $told): Service
    {
        return new Service($told->name, $told->version, self::json($told->metadata));
    }

    public static function instance(Thrift\Instance $told, Freshness $freshness): Instance
    {
        $service = self::service($told->offer);
        return new Instance($told->master, $told->address, $service, $told->outstanding, $freshness);
    }

    public static function master(Thrift\Master $told, Freshness $freshness): Master
    {
        return new Master(
            $told->id,
            $told->address,
            $told->connectedAt,
            array_map(self::service(...), $told->services),
            $told->ways,
            $told->outstanding,
            $freshness,
        );
    }

    public static function status(Thrift\StatusReply $told, Freshness $freshness): Status
    {
        $sources = array_map(self::source(...), $told->sources);
        return new Status($told->version, $told->uptimeMs, $freshness, $sources, $told->counters, $told->limits);
    }

    private static function source(Thrift\SourceStatus $told): Source
    {
        return new Source(
            $told->name,
            $told->kind,
            $told->state,
            $told->detail,
            $told->roots,
            $told->ageMs,
            $told->nodes,
            $told->bytes,
            $told->reconnects,
            $told->leftOut,
            $told->drift,
        );
    }

    public static function json(string $text): mixed
    {
        return json_decode($text, true, flags: JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }
}
