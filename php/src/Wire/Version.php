<?php

declare(strict_types=1);

namespace Roster\Wire;

/**
 * Versions in the order of the sidecar, that of semver. (`version_compare` takes all numbers beyond PHP's own for the same.)
 *
 * @internal
 */
final class Version
{
    /** Whether one is older (-1), newer (1), or the same. */
    public static function compare(string $one, string $other): int
    {
        [$one, $other] = [self::parts($one), self::parts($other)];
        return self::fields($one[0], $other[0])
            // What has no pre-release is newer than what has one, and what has no build older.
            ?: ($one[1] === '') <=> ($other[1] === '')
            ?: self::fields($one[1], $other[1])
            ?: ($one[2] !== '') <=> ($other[2] !== '')
            ?: self::fields($one[2], $other[2]);
    }

    /** @return array{string, string, string} its numbers, its pre-release and its build; empty where it has none */
    private static function parts(string $version): array
    {
        [$version, $build] = explode('+', $version, 2) + [1 => ''];
        [$numbers, $pre] = explode('-', $version, 2) + [1 => ''];
        return [$numbers, $pre, $build];
    }

    private static function fields(string $one, string $other): int
    {
        [$one, $other] = [explode('.', $one), explode('.', $other)];
        foreach ($one as $index => $field) {
            if ($order = isset($other[$index]) ? self::field($field, $other[$index]) : 1) {
                return $order;
            }
        }
        return count($one) <=> count($other);
    }

    private static function field(string $one, string $other): int
    {
        [$isNumber, $isOtherNumber] = [ctype_digit($one), ctype_digit($other)];
        return match (true) {
            $isNumber !== $isOtherNumber => $isOtherNumber <=> $isNumber,
            $isNumber => strlen($one) <=> strlen($other) ?: strcmp($one, $other) <=> 0,
            default => strcmp($one, $other) <=> 0,
        };
    }
}
