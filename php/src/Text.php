<?php

declare(strict_types=1);

namespace Roster;

/**
 * Texts for the other end, with a maximum length.
 *
 * @internal
 */
final class Text
{
    /** Its beginning; for UTF-8, whole characters. */
    public static function cut(string $text, int $bytes): string
    {
        if (strlen($text) <= $bytes) {
            return $text;
        }
        $cut = substr($text, 0, $bytes);
        // A character has at most four bytes: if it is not UTF-8 then, it was not before.
        for ($less = 0; $less < 4; $less++) {
            $whole = substr($cut, 0, $bytes - $less);
            if (preg_match('//u', $whole) === 1) {
                return $whole;
            }
        }
        return $cut;
    }

    /** The name of a class; for an anonymous one without its file. */
    public static function className(object $object): string
    {
        return strstr($object::class . "\0", "\0", true);
    }
}
