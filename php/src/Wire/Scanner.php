<?php

declare(strict_types=1);

namespace Roster\Wire;

/**
 * Finds where a message ends before any of it is decoded: if it arrives in pieces, each byte is scanned once.
 *
 * Refuses what is larger, deeper or has more values than a message may, as soon as that is announced.
 *
 * @internal
 */
final class Scanner
{
    /** The sidecar's default limit, in both directions. */
    public const MAX_BYTES = 1 << 20;
    public const MAX_DEPTH = 32;
    /** As many as a call's arguments may hold, plus what is around them: each takes up to 400 bytes of memory. */
    public const MAX_VALUES = 65_536 + 64;

    /** Where the next value begins, relative to the message; possibly beyond the available bytes. */
    private int $at = 0;
    /** The message itself, and the values that its containers have announced. */
    private int $values = 1;
    /** @var non-empty-list<int> how many values are left: of the message, and of each nested container */
    private array $left = [1];

    /**
     * @param string $bytes everything that has arrived
     * @param int $from where the message begins
     * @return ?int its length; null: it is incomplete
     * @throws \UnexpectedValueException
     */
    public function scan(string $bytes, int $from = 0): ?int
    {
        $there = strlen($bytes) - $from;
        while (true) {
            $level = array_key_last($this->left);
            if ($this->left[$level] === 0) {
                if ($level === 0) {
                    return $this->at <= $there ? $this->at : null;
                }
                array_pop($this->left);
                continue;
            }
            if ($this->at >= $there) {
                return null;
            }
            $mark = ord($bytes[$from + $this->at]);
            $width = self::width($mark);
            if ($this->at + 1 + $width > $there) {
                return null;
            }
            $this->at += 1 + $width;
            $count = $width === 0 ? 0 : self::number(substr($bytes, $from + $this->at - $width, $width));
            $this->left[$level]--;
            $items = self::items($mark, $count);
            if ($items === null) {
                $this->at += self::content($mark, $count);
            } else {
                $this->enter($items);
            }
            if ($this->at > self::MAX_BYTES) {
                throw new \UnexpectedValueException('a message is longer than ' . self::MAX_BYTES . ' bytes');
            }
        }
    }

    private function enter(int $items): void
    {
        if (count($this->left) > self::MAX_DEPTH) {
            throw new \UnexpectedValueException('a message is nested deeper than ' . self::MAX_DEPTH . ' levels');
        }
        $this->values += $items;
        if ($this->values > self::MAX_VALUES) {
            throw new \UnexpectedValueException('a message holds more than ' . self::MAX_VALUES . ' values');
        }
        $this->left[] = $items;
    }

    /** How many bytes after its type byte hold the length of a value. */
    private static function width(int $mark): int
    {
        return match (true) {
            $mark >= 0xc4 && $mark <= 0xc6 => 1 << ($mark - 0xc4),
            $mark >= 0xc7 && $mark <= 0xc9 => 1 << ($mark - 0xc7),
            $mark >= 0xd9 && $mark <= 0xdb => 1 << ($mark - 0xd9),
            $mark === 0xdc, $mark === 0xde => 2,
            $mark === 0xdd, $mark === 0xdf => 4,
            default => 0,
        };
    }

    private static function number(string $bytes): int
    {
        return unpack([1 => 'C', 2 => 'n', 4 => 'N'][strlen($bytes)], $bytes)[1];
    }

    /** How many values a container holds; null: it is not a container. */
    private static function items(int $mark, int $count): ?int
    {
        return match (true) {
            $mark >= 0x80 && $mark < 0x90 => 2 * ($mark & 0x0f),
            $mark >= 0x90 && $mark < 0xa0 => $mark & 0x0f,
            $mark === 0xdc, $mark === 0xdd => $count,
            $mark === 0xde, $mark === 0xdf => 2 * $count,
            default => null,
        };
    }

    /** How many bytes follow the header of a value that is not a container. */
    private static function content(int $mark, int $count): int
    {
        return match (true) {
            $mark < 0x80, $mark >= 0xe0, $mark === 0xc0, $mark === 0xc2, $mark === 0xc3 => 0,
            $mark < 0xc0 => $mark & 0x1f,
            $mark === 0xc1 => throw new \UnexpectedValueException('bytes came that are no MessagePack'),
            $mark >= 0xc7 && $mark <= 0xc9 => $count + 1,
            $mark === 0xca => 4,
            $mark === 0xcb => 8,
            $mark >= 0xcc && $mark <= 0xcf => 1 << ($mark - 0xcc),
            $mark >= 0xd0 && $mark <= 0xd3 => 1 << ($mark - 0xd0),
            $mark >= 0xd4 && $mark <= 0xd8 => 1 + (1 << ($mark - 0xd4)),
            default => $count,
        };
    }
}
