<?php

declare(strict_types=1);

namespace Roster\Worker;

/**
 * Texts for the other end, which may only be so long.
 *
 * @internal
 */
final class Text
{
    /** Its beginning; of UTF-8, whole characters. */
    public static function cut(string $text, int $bytes): string
    {
        if (strlen($text) <= $bytes) {
            return $text;
        }
        $cut = substr($text, 0, $bytes);
        // A character has four bytes at most: what is then no UTF-8 was none before.
        for ($less = 0; $less < 4; $less++) {
            $whole = substr($cut, 0, $bytes - $less);
            if (preg_match('//u', $whole) === 1) {
                return $whole;
            }
        }
        return $cut;
    }

    /** A class's name; that of an anonymous one without the file in which it is. */
    public static function className(object $object): string
    {
        return strstr($object::class . "\0", "\0", true);
    }
}
