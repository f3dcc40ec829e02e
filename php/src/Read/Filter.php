<?php

declare(strict_types=1);

namespace Roster\Read;

/**
 * Which instances in the shared file are asked for, as the sidecar would decide it.
 *
 * @internal
 */
final class Filter
{
    private const JSON = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION;

    /** @param array<string, mixed> $query the `group`, `zone` and `metadata` that it must have; null: any */
    public static function passes(array $record, array $query): bool
    {
        if (($record['group'] ?? '') !== ($query['group'] ?? $record['group'] ?? '')
            || ($record['zone'] ?? '') !== ($query['zone'] ?? $record['zone'] ?? '')) {
            return false;
        }
        foreach ($query['metadata'] ?? [] as $key => $wanted) {
            if (!array_key_exists($key, $record['metadata'] ?? []) || self::text($record['metadata'][$key]) !== $wanted) {
                return false;
            }
        }
        return true;
    }

    /** A string as it is, another value as its JSON, as the sidecar writes it; false: there is none. */
    public static function text(mixed $value): string|false
    {
        return is_string($value) ? $value : json_encode($value, self::JSON);
    }
}
