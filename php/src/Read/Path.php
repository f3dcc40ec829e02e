<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\InvalidRequest;
use Roster\Text;

/**
 * Valid paths: all transports must agree on them, even one that only looks up a key.
 *
 * @internal
 */
final class Path
{
    /** How many bytes of a path a message shows. */
    private const MAX_SHOWN = 200;

    private const FORM = '~^(?:/|(?:/(?!\.\.?(?:/|\z))[^/\p{Cc}]++)++)\z~u';

    /** @throws InvalidRequest */
    public static function check(string ...$paths): void
    {
        foreach ($paths as $path) {
            if (preg_match(self::FORM, $path) !== 1) {
                throw new InvalidRequest('path', '`' . Text::cut($path, self::MAX_SHOWN) . '` ' . self::mistake($path));
            }
        }
    }

    private static function mistake(string $path): string
    {
        return match (true) {
            !str_starts_with($path, '/') => 'is not absolute: it does not begin with a slash',
            preg_match('//u', $path) !== 1 => 'is no UTF-8',
            preg_match('/\p{Cc}/u', $path) === 1 => 'has a control character',
            str_ends_with($path, '/') => 'ends in a slash',
            str_contains($path, '//') => 'has an empty part',
            default => 'has a part `.` or `..`',
        };
    }
}
