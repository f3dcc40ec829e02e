<?php

declare(strict_types=1);

namespace Roster\Read;

/**
 * Which part of its weight counts while an instance of Dubbo warms up, as in the sidecar: `tests/vectors/resolve.json` has
 * examples for both.
 *
 * @internal
 */
final class WarmUp
{
    private const DECODERS = ['dubbo', 'dubbo-application'];
    private const DEFAULT_MS = 600_000;
    private const MAX_MS = 0x7fffffff;

    /** The part of the weight that counts now: from 0 to 1. */
    public static function part(array $record): float
    {
        $weight = $record['weight'] ?? 100;
        return $weight === 0 ? 1.0 : self::weight($record, (int) (microtime(true) * 1_000)) / $weight;
    }

    /** The weight that counts at a time, in ms since 1970. */
    public static function weight(array $record, int $now): int
    {
        $weight = $record['weight'] ?? 100;
        $isOfDubbo = in_array($record['provenance'][0]['decoder'] ?? '', self::DECODERS, true);
        $since = $isOfDubbo ? self::number($record['metadata']['timestamp'] ?? '') : null;
        if ($since === null || $since === 0) {
            return $weight;
        }
        $ms = self::number($record['metadata']['warmup'] ?? '');
        $ms = $ms === null || $ms > self::MAX_MS ? self::DEFAULT_MS : $ms;
        $uptime = max($now - $since, 0);
        return $uptime >= $ms ? $weight : min(max(intdiv($uptime * $weight, $ms), 1), $weight);
    }

    private static function number(mixed $text): ?int
    {
        return is_string($text) && preg_match('/^\d{1,15}$/D', $text) === 1 ? (int) $text : null;
    }
}
