<?php

declare(strict_types=1);

namespace Roster\Wire;

/**
 * Versions in the sidecar's order, that of semver. (`version_compare` considers all numbers beyond PHP's range equal.)
 *
 * @internal
 */
final class Version
{
    /** Whether the first is older (-1), newer (1), or the same. */
    public static function compare(string $one, string $other): int
    {
        [$one, $other] = [self::parts($one), self::parts($other)];
        return self::fields($one[0], $other[0])
            // Without a pre-release it is newer than with one, and without a build older.
            ?: ($one[1] === '') <=> ($other[1] === '')
            ?: self::fields($one[1], $other[1])
            ?: ($one[2] !== '') <=> ($other[2] !== '')
            ?: self::fields($one[2], $other[2]);
    }

    /** @return array{string, string, string} its numbers, its pre-release and its build; empty if it has none */
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
            $isNumber => self::number($one, $other),
            default => strcmp($one, $other) <=> 0,
        };
    }

    /** However many digits they have; of equal ones the one with more leading zeros is greater. */
    private static function number(string $one, string $other): int
    {
        [$value, $otherValue] = [ltrim($one, '0'), ltrim($other, '0')];
        return strlen($value) <=> strlen($otherValue)
            ?: strcmp($value, $otherValue) <=> 0
            ?: strlen($one) <=> strlen($other);
    }
}
