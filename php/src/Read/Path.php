<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\InvalidRequest;

/**
 * Valid paths: all transports must agree on them, even one that only looks up a key.
 *
 * @internal
 */
final class Path
{
    private const FORM = '~^(?:/|(?:/(?!\.\.?(?:/|\z))[^/\p{Cc}]++)++)\z~u';

    /** @throws InvalidRequest */
    public static function check(string ...$paths): void
    {
        foreach ($paths as $path) {
            if (preg_match(self::FORM, $path) !== 1) {
                throw new InvalidRequest('path', "`$path` is not absolute, ends in a slash, or has an impossible part");
            }
        }
    }
}
