<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Wire\MessagePack;
use Roster\Wire\Scanner;

/** The end of a message is found however it comes, and what passes a bound is refused before it has come. */
final class ScannerTest extends TestCase
{
    public function testTheEndIsFoundHoweverTheBytesCome(): void
    {
        $frame = self::everyKind();
        $followed = "before$frame$frame";
        self::assertSame(strlen($frame), (new Scanner())->scan($followed, 6));
        $scanner = new Scanner();
        for ($cut = 0; $cut < strlen($frame); $cut++) {
            self::assertNull($scanner->scan(substr($followed, 0, 6 + $cut), 6), "cut at $cut");
            if ($cut % 97 === 0) {
                $other = new Scanner();
                $other->scan(substr($frame, 0, $cut));
                self::assertSame(strlen($frame), $other->scan("$frame$frame"), "in two, cut at $cut");
            }
        }
        self::assertSame(strlen($frame), $scanner->scan($followed, 6));
    }

    /** A value of every kind, and of every length of each. */
    private static function everyKind(): string
    {
        $extension = static fn (string $head, int $size) => $head . "\x07" . str_repeat('e', $size);
        $values = [
            "\xc0", "\xc2", "\xc3", "\x00", "\x7f", "\xe0", "\xff", "\xca" . pack('G', 1.5), "\xcb" . pack('E', 1.5),
            "\xcc\xff", "\xcd\xff\xff", "\xce\xff\xff\xff\xff", "\xcf" . str_repeat("\xff", 8),
            "\xd0\x80", "\xd1\x80\x00", "\xd2\x80\x00\x00\x00", "\xd3" . str_repeat("\x80", 8),
            "\xa0", "\xa3abc", "\xd9\x02ab", "\xda\x01\x00" . str_repeat('t', 256), "\xdb\x00\x00\x00\x01t",
            "\xc4\x02ab", "\xc5\x01\x00" . str_repeat('b', 256), "\xc6\x00\x00\x00\x01b",
            $extension("\xd4", 1), $extension("\xd5", 2), $extension("\xd6", 4), $extension("\xd7", 8), $extension("\xd8", 16),
            $extension("\xc7\x03", 3), $extension("\xc8\x01\x00", 256), $extension("\xc9\x00\x00\x00\x01", 1),
            "\x90", "\x92\x01\x91\x02", "\xdc\x00\x10" . str_repeat("\xc0", 16), "\xdd\x00\x00\x00\x01\x80",
            "\x80", "\x81\xa1k\x91\xc0", "\xde\x00\x01\x01\x02", "\xdf\x00\x00\x00\x01\xa1k\x82\x01\x02\x03\x04",
        ];
        return "\xdc" . pack('n', count($values)) . implode('', $values);
    }

    public function testWhatIsPackedEndsWhereItEnds(): void
    {
        $large = array_fill(0, 30_000, ['a' => 'ü']);
        foreach ([null, 'x', [], ['a' => [1.5, "\xff", str_repeat('y', 70_000)]], array_slice($large, 0, 20_000)] as $value) {
            $packed = MessagePack::pack($value);
            self::assertSame(strlen($packed), (new Scanner())->scan($packed . 'more'));
        }
    }

    /** @dataProvider beyond */
    public function testWhatPassesABoundIsRefusedBeforeItHasCome(string $bytes, string $why): void
    {
        $this->expectException(\UnexpectedValueException::class);
        $this->expectExceptionMessage($why);
        (new Scanner())->scan($bytes);
    }

    public static function beyond(): array
    {
        return [
            'a text' => ["\x81\xa1a\xdb\x00\x10\x00\x00", 'longer than 1048576 bytes'],
            'bytes without end' => ["\xc6\xff\xff\xff\xff", 'longer than 1048576 bytes'],
            'an extension' => ["\xc9\xff\xff\xff\xff", 'longer than 1048576 bytes'],
            'a list' => ["\xdd\xff\xff\xff\xff", 'more than 65600 values'],
            'a map' => ["\xdf\xff\xff\xff\xff", 'more than 65600 values'],
            'many lists' => ["\xdc\xff\xff" . str_repeat("\x91\xc0", 200), 'more than 65600 values'],
            'levels' => [str_repeat("\x91", 33), 'deeper than 32 levels'],
            'levels of maps' => [str_repeat("\x81\xa1k", 33), 'deeper than 32 levels'],
            'no MessagePack' => ["\x91\xc1", 'no MessagePack'],
        ];
    }

    public function testTheBoundsThemselvesAreAllowed(): void
    {
        $deep = str_repeat("\x91", 32) . "\xc0";
        $long = "\xdb" . pack('N', Scanner::MAX_BYTES - 5) . str_repeat('x', Scanner::MAX_BYTES - 5);
        $many = "\xdd" . pack('N', Scanner::MAX_VALUES - 1) . str_repeat("\xc0", Scanner::MAX_VALUES - 1);
        foreach ([$deep, $long, $many] as $frame) {
            self::assertSame(strlen($frame), (new Scanner())->scan($frame));
        }
    }

    public function testAMessageOfManyPiecesCostsNoMoreThanOneAtOnce(): void
    {
        // Walked from its beginning for every piece, this would take minutes.
        $frame = "\xdd" . pack('N', 60_000) . str_repeat("\x01", 60_000);
        [$scanner, $come] = [new Scanner(), ''];
        foreach (str_split($frame, 7) as $piece) {
            $come .= $piece;
            $end = $scanner->scan($come);
        }
        self::assertSame(strlen($frame), $end);
    }

    public function testWhatThereIsNoRoomForIsNotPacked(): void
    {
        foreach (['x', str_repeat('ü', 500), "\xff", [1, [2, 'three']], ['a' => 1.5], range(1, 300)] as $value) {
            $room = $size = strlen(MessagePack::pack($value));
            self::assertSame($size, strlen(MessagePack::pack($value, 128, $room)));
            self::assertSame(0, $room);
            try {
                $less = $size - 1;
                MessagePack::pack($value, 128, $less);
                self::fail('there was room');
            } catch (\LengthException) {
            }
        }
    }
}
