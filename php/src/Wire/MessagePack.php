<?php

declare(strict_types=1);

namespace Roster\Wire;

/** Arguments and results of calls as MessagePack, which keeps strings as bytes, and the types of numbers. */
final class MessagePack
{
    /**
     * Like json_encode(): a list or a map, an object by its public properties, or by its own JsonSerializable.
     *
     * @param int $room how many bytes there may be; reduced by what is packed
     * @throws \InvalidArgumentException if it cannot be packed
     * @throws \LengthException if there is no room for it
     */
    public static function pack(mixed $value, int $depth = 128, int &$room = PHP_INT_MAX): string
    {
        if ($depth === 0) {
            throw new \InvalidArgumentException('it is nested too deeply');
        }
        if ($value instanceof \BackedEnum) {
            return self::pack($value->value, $depth, $room);
        }
        if ($value instanceof \JsonSerializable && ($plain = $value->jsonSerialize()) !== $value) {
            return self::pack($plain, $depth - 1, $room);
        }
        if ($value instanceof \Closure || $value instanceof \Generator || $value instanceof \UnitEnum) {
            throw new \InvalidArgumentException('there is a ' . get_debug_type($value) . ' in it');
        }
        return match (true) {
            $value === null => self::within($room, "\xc0"),
            is_bool($value) => self::within($room, $value ? "\xc3" : "\xc2"),
            is_int($value) => self::within($room, self::integer($value)),
            is_float($value) => self::within($room, "\xcb" . pack('E', $value)),
            is_string($value) => self::string($value, $room),
            is_array($value) && array_is_list($value) => self::items($value, $depth, $room),
            is_array($value) => self::pairs($value, $depth, $room),
            // The names of non-public properties begin with a NUL.
            is_object($value) => self::pairs(
                array_filter((array) $value, static fn ($name) => !str_starts_with((string) $name, "\0"), ARRAY_FILTER_USE_KEY),
                $depth,
                $room,
            ),
            default => throw new \InvalidArgumentException('there is a ' . get_debug_type($value) . ' in it'),
        };
    }

    /** What the sidecar packed; maps become arrays, integers beyond PHP's range strings. */
    public static function unpack(string $bytes): mixed
    {
        $at = 0;
        return self::value($bytes, $at);
    }

    private static function within(int &$room, string $bytes): string
    {
        $room -= strlen($bytes);
        return $room < 0 ? throw new \LengthException('it is larger than a message may be') : $bytes;
    }

    private static function integer(int $value): string
    {
        return match (true) {
            $value >= -0x20 && $value < 0x80 => chr($value & 0xff),
            $value >= -0x80000000 && $value < 0x80000000 => "\xd2" . pack('N', $value),
            default => "\xd3" . pack('J', $value),
        };
    }

    private static function string(string $value, int &$room): string
    {
        $size = strlen($value);
        if ($size > $room) {
            // Not a byte of it is copied.
            throw new \LengthException('it is larger than a message may be');
        }
        $head = preg_match('//u', $value) === 1
            ? ($size < 32 ? chr(0xa0 | $size) : "\xdb" . pack('N', $size))
            : "\xc6" . pack('N', $size);
        return self::within($room, $head . $value);
    }

    /** @param list<mixed> $items */
    private static function items(array $items, int $depth, int &$room): string
    {
        $bytes = self::within($room, count($items) < 16 ? chr(0x90 | count($items)) : "\xdd" . pack('N', count($items)));
        foreach ($items as $item) {
            $bytes .= self::pack($item, $depth - 1, $room);
        }
        return $bytes;
    }

    /** @param array<mixed> $pairs */
    private static function pairs(array $pairs, int $depth, int &$room): string
    {
        $bytes = self::within($room, count($pairs) < 16 ? chr(0x80 | count($pairs)) : "\xdf" . pack('N', count($pairs)));
        foreach ($pairs as $key => $value) {
            $bytes .= self::pack($key, $depth, $room) . self::pack($value, $depth - 1, $room);
        }
        return $bytes;
    }

    private static function value(string $bytes, int &$at): mixed
    {
        $mark = ord(self::take($bytes, $at, 1));
        return match (true) {
            $mark < 0x80 => $mark,
            $mark < 0x90 => self::map($bytes, $at, $mark & 0x0f),
            $mark < 0xa0 => self::list($bytes, $at, $mark & 0x0f),
            $mark < 0xc0 => self::take($bytes, $at, $mark & 0x1f),
            $mark >= 0xe0 => $mark - 0x100,
            $mark === 0xc2, $mark === 0xc3 => $mark === 0xc3,
            $mark >= 0xc4 && $mark <= 0xc6 => self::take($bytes, $at, self::unsigned($bytes, $at, 1 << ($mark - 0xc4))),
            $mark >= 0xc7 && $mark <= 0xc9 => self::extension($bytes, $at, self::unsigned($bytes, $at, 1 << ($mark - 0xc7))),
            $mark === 0xca => unpack('G', self::take($bytes, $at, 4))[1],
            $mark === 0xcb => unpack('E', self::take($bytes, $at, 8))[1],
            $mark === 0xcf => self::large(unpack('J', self::take($bytes, $at, 8))[1]),
            $mark >= 0xcc && $mark <= 0xce => self::unsigned($bytes, $at, 1 << ($mark - 0xcc)),
            $mark === 0xd0 => unpack('c', self::take($bytes, $at, 1))[1],
            $mark === 0xd1 => (self::unsigned($bytes, $at, 2) ^ 0x8000) - 0x8000,
            $mark === 0xd2 => (self::unsigned($bytes, $at, 4) ^ 0x80000000) - 0x80000000,
            $mark === 0xd3 => unpack('J', self::take($bytes, $at, 8))[1],
            $mark >= 0xd4 && $mark <= 0xd8 => self::extension($bytes, $at, 1 << ($mark - 0xd4)),
            $mark >= 0xd9 && $mark <= 0xdb => self::take($bytes, $at, self::unsigned($bytes, $at, 1 << ($mark - 0xd9))),
            $mark === 0xdc, $mark === 0xdd => self::list($bytes, $at, self::unsigned($bytes, $at, $mark === 0xdc ? 2 : 4)),
            $mark === 0xde, $mark === 0xdf => self::map($bytes, $at, self::unsigned($bytes, $at, $mark === 0xde ? 2 : 4)),
            default => null,
        };
    }

    private static function take(string $bytes, int &$at, int $count): string
    {
        if ($count > strlen($bytes) - $at) {
            throw new \UnexpectedValueException('a value of the sidecar is cut off');
        }
        $at += $count;
        return substr($bytes, $at - $count, $count);
    }

    private static function unsigned(string $bytes, int &$at, int $count): int
    {
        return unpack([1 => 'C', 2 => 'n', 4 => 'N'][$count], self::take($bytes, $at, $count))[1];
    }

    private static function large(int $number): int|string
    {
        return $number >= 0 ? $number : sprintf('%u', $number);
    }

    /** Just its bytes: PHP has no such types. */
    private static function extension(string $bytes, int &$at, int $count): string
    {
        self::take($bytes, $at, 1);
        return self::take($bytes, $at, $count);
    }

    /** @return list<mixed> */
    private static function list(string $bytes, int &$at, int $count): array
    {
        $list = [];
        while ($count-- > 0) {
            $list[] = self::value($bytes, $at);
        }
        return $list;
    }

    /** @return array<mixed> */
    private static function map(string $bytes, int &$at, int $count): array
    {
        $map = [];
        while ($count-- > 0) {
            $key = self::value($bytes, $at);
            $map[is_int($key) || is_string($key) ? $key : json_encode($key)] = self::value($bytes, $at);
        }
        return $map;
    }
}
