<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\TransportFailed;

/**
 * Chooses among the instances of a service by the `pick/…` and `lots/…` entries in the shared file, as the sidecar itself
 * would: `tests/vectors/resolve.json` has the expected choices of both. A chunk has the hashes of 256 addresses, their
 * weights, and once more the last four bytes of the hashes: the fifth bytes of all, then the sixth ones, and so on.
 *
 * @internal
 */
final class Picks
{
    public const CHUNK = 256;

    /** A draw has 31 bits, so that no product of two numbers overflows an integer. */
    private const MAX_DRAW = 0x7fffffff;
    /** The number of its bits after the first eight. */
    private const REST = 23;
    /** The number of fractional bits of a logarithm. */
    private const FRACTION = 26;
    /** By how much less than a distance `about` is at most, and some more. */
    private const SLACK = 3;

    /** The bytes of an instance in a chunk; those of its hash; and those of both that and its weight. */
    private const BYTES = 16;
    private const HASH = 8;
    private const LOT = 12;

    /** All bytes, */
    private const ALL = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17"
        . "\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\x21\x22\x23\x24\x25\x26\x27\x28\x29\x2a\x2b\x2c\x2d\x2e\x2f"
        . "\x30\x31\x32\x33\x34\x35\x36\x37\x38\x39\x3a\x3b\x3c\x3d\x3e\x3f\x40\x41\x42\x43\x44\x45\x46\x47"
        . "\x48\x49\x4a\x4b\x4c\x4d\x4e\x4f\x50\x51\x52\x53\x54\x55\x56\x57\x58\x59\x5a\x5b\x5c\x5d\x5e\x5f"
        . "\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f\x70\x71\x72\x73\x74\x75\x76\x77"
        . "\x78\x79\x7a\x7b\x7c\x7d\x7e\x7f\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f"
        . "\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7"
        . "\xa8\xa9\xaa\xab\xac\xad\xae\xaf\xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xbb\xbc\xbd\xbe\xbf"
        . "\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcc\xcd\xce\xcf\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7"
        . "\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf\xe0\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xeb\xec\xed\xee\xef"
        . "\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff";
    /** and the table of Pearson's hash in RFC 3074. */
    private const PEARSON = "\xfb\xaf\x77\xd7\x51\x0e\x4f\xbf\x67\x31\xb5\x8f\xba\x9d\x00\xe8\x1f\x20\x37\x3c\x98\x3a\x11\xed"
        . "\xae\x46\xa0\x90\xdc\x5a\x39\xdf\x3b\x03\x12\x8c\x6f\xa6\xcb\xc4\x86\xf3\x7c\x5f\xde\xb3\xc5\x41"
        . "\xb4\x30\x24\x0f\x6b\x2e\xe9\x82\xa5\x1e\x7b\xa1\xd1\x17\x61\x10\x28\x5b\xdb\x3d\x64\x0a\xd2\x6d"
        . "\xfa\x7f\x16\x8a\x1d\x6c\xf4\x43\xcf\x09\xb2\xcc\x4a\x62\x7e\xf9\xa7\x74\x22\x4d\xc1\xc8\x79\x05"
        . "\x14\x71\x47\x23\x80\x0d\xb6\x5e\x19\xe2\xe3\xc7\x4b\x1b\x29\xf5\xe6\xe0\x2b\xe1\xb1\x1a\x9b\x96"
        . "\xd4\x8e\xda\x73\xf1\x49\x58\x69\x27\x72\x3e\xff\xc0\xc9\x91\xd6\xa8\x9e\xdd\x94\x9a\x7a\x0c\x54"
        . "\x52\xa3\x2c\x8b\xe4\xec\xcd\xf2\xd9\x0b\xbb\x92\x9f\x40\x56\xef\xc3\x2a\x6a\xc6\x76\x70\xb8\xac"
        . "\x57\x02\xad\x75\xb0\xe5\xf7\xfd\x89\xb9\x63\xa4\x66\x93\x2d\x42\xe7\x34\x8d\xd3\xc2\xce\xf6\xee"
        . "\x38\x6e\x4e\xf8\x3f\xf0\xbd\x5d\x5c\x33\x35\xb7\x13\xab\x48\x32\x21\x68\x65\x45\x08\xfc\x53\x78"
        . "\x4c\x87\x55\x36\xca\x7d\xbc\xd5\x60\xeb\x88\xd0\xa2\x81\xbe\x84\x9c\x26\x2f\x01\x07\xfe\x18\x04"
        . "\xd8\x83\x59\x15\x1c\x85\x25\x99\x95\x50\xaa\x44\x06\xa9\xea\x97";

    /** The weight of the instance with this number in a chunk. */
    public static function weight(string|false $chunk, int $number): int
    {
        $count = self::count($chunk);
        return $number < $count
            ? unpack('N', $chunk, self::HASH * $count + 4 * $number)[1]
            : throw new TransportFailed('an entry is damaged');
    }

    /**
     * The numbers of the best ones for a key, those with the most weight per bit of distance: more than one only if they are
     * equal. Only few are looked at one by one: those whose draws have the greatest first bytes.
     *
     * @param list<string|false> $chunks
     * @param int $heaviest the greatest weight
     * @param array<int, int> $others weights that differ from those in the chunks, by number
     * @return list<int>
     */
    public static function best(array $chunks, int $heaviest, string $key, array $others = []): array
    {
        $key = self::hash($key);
        $firsts = self::firsts($chunks, $key);
        $bytes = count_chars($firsts, 3);
        [$best, $greatest, $weight, $needed] = [[], -1, 0, 1];
        for ($last = strlen($bytes) - 1; $last >= 0 && $weight !== $heaviest; $last--) {
            $first = ord($bytes[$last]);
            if ($best !== []) {
                // What weighs less is no better with the greatest of these draws, or of those that follow.
                $least = self::about(($first + 1 << self::REST) - 1);
                $needed = $weight * $least / (self::about($greatest) + self::SLACK);
                if ($heaviest < $needed) {
                    break;
                }
            }
            for ($at = -1; ($at = strpos($firsts, $bytes[$last], $at + 1)) !== false;) {
                [$chunk, $number] = [$chunks[intdiv($at, self::CHUNK)], $at % self::CHUNK];
                $own = $others[$at] ?? self::weight($chunk, $number);
                if ($own < $needed) {
                    continue;
                }
                $draw = $first << self::REST | self::rest($key ^ unpack('J', $chunk, self::HASH * $number)[1]);
                $order = $best === [] ? 1 : self::compare($own, $draw, $weight, $greatest);
                if ($order >= 0) {
                    $best = $order === 0 ? [...$best, $at] : [$at];
                    [$greatest, $weight] = [$draw, $own];
                }
            }
        }
        return $best;
    }

    /**
     * The number of a random one, each in proportion to its weight; null: there is none.
     *
     * @param list<string|false> $chunks
     * @param array<int, int> $others as for `best`
     */
    public static function random(array $chunks, array $others = []): ?int
    {
        $weights = '';
        foreach ($chunks as $chunk) {
            $count = self::count($chunk);
            $weights .= substr($chunk, self::HASH * $count, 4 * $count);
        }
        $weights = array_values(unpack('N*', $weights));
        $weights = array_replace($weights, array_intersect_key($others, $weights));
        $left = random_int(0, max(array_sum($weights), 1) - 1);
        foreach ($weights as $number => $weight) {
            if (($left -= $weight) < 0) {
                return $number;
            }
        }
        return null;
    }

    /**
     * The numbers of those at some addresses.
     *
     * @param list<string|false> $chunks
     * @param list<string> $addresses
     * @return list<int>
     */
    public static function at(array $chunks, array $addresses): array
    {
        $found = [];
        foreach ($addresses as $address) {
            $hash = pack('J', self::hash($address));
            foreach ($chunks as $index => $chunk) {
                $end = self::HASH * self::count($chunk);
                for ($at = -1; ($at = strpos($chunk, $hash, $at + 1)) !== false && $at < $end;) {
                    if ($at % self::HASH === 0) {
                        $found[] = $index * self::CHUNK + intdiv($at, self::HASH);
                    }
                }
            }
        }
        return $found;
    }

    /** The hash of a key or an address. */
    public static function hash(string $text): int
    {
        return unpack('J', hash('xxh3', $text, true))[1] >> 2 & 0x3fffffffffffffff;
    }

    /** The draw of an address for a key, both given by hash. */
    public static function draw(int $key, int $address): int
    {
        $mixed = $key ^ $address;
        $first = 0;
        foreach ([24, 16, 8, 0] as $shift) {
            $first = ord(self::PEARSON[$first ^ $mixed >> $shift & 0xff]);
        }
        return $first << self::REST | self::rest($mixed);
    }

    /** −log2 of a draw as a fraction, plus one last bit. */
    public static function distance(int $draw): int
    {
        $number = $draw + 1;
        $whole = strlen(decbin($number)) - 1;
        $rest = ($number << 30) >> $whole;
        for ($log = $whole, $bit = 0; $bit < self::FRACTION; $bit++) {
            $rest = $rest * $rest >> 30;
            $log <<= 1;
            if ($rest >> 31 === 1) {
                $rest >>= 1;
                $log |= 1;
            }
        }
        return (31 << self::FRACTION) - $log + 1;
    }

    /** The order of two weights with their draws. */
    private static function compare(int $weight, int $draw, int $other, int $otherDraw): int
    {
        if ($weight === $other) {
            return $draw <=> $otherDraw;
        }
        $more = $weight * self::about($otherDraw) - $other * self::about($draw);
        // Of two that are this close, only the integers tell which one the sidecar chooses.
        if (abs($more) <= self::SLACK * max($weight, $other)) {
            $more = $weight * self::distance($otherDraw) <=> $other * self::distance($draw);
        }
        return $more <=> 0 ?: $draw <=> $otherDraw;
    }

    /** The distance as a float, in a tenth of the time: it is less by at most 2.3. */
    private static function about(int $draw): float
    {
        return (31 - log($draw + 1, 2)) * (1 << self::FRACTION);
    }

    /** The number of instances in a chunk. */
    private static function count(string|false $chunk): int
    {
        $bytes = strlen((string) $chunk);
        return $bytes > 0 && $bytes % self::BYTES === 0
            ? intdiv($bytes, self::BYTES)
            : throw new TransportFailed('an entry is damaged');
    }

    /** The bits of a draw after the first eight. */
    private static function rest(int $mixed): int
    {
        $product = ($mixed >> 31) * ($mixed & self::MAX_DRAW);
        return ($product >> 31 ^ $product) & (1 << self::REST) - 1;
    }

    /**
     * The first bytes of the draws of all instances. This is what `draw` does, for all at once: a loop over them would take
     * longer than everything else.
     *
     * @param list<string|false> $chunks
     */
    private static function firsts(array $chunks, int $key): string
    {
        $fifth = $sixth = $seventh = $eighth = '';
        foreach ($chunks as $chunk) {
            $count = self::count($chunk);
            $at = self::LOT * $count;
            $fifth .= substr($chunk, $at, $count);
            $sixth .= substr($chunk, $at += $count, $count);
            $seventh .= substr($chunk, $at += $count, $count);
            $eighth .= substr($chunk, $at + $count, $count);
        }
        $firsts = '';
        foreach ([$fifth, $sixth, $seventh, $eighth] as $number => $all) {
            $from = self::ALL ^ str_repeat(chr($key >> 24 - 8 * $number & 0xff), 256);
            $firsts = strtr($number === 0 ? $all : $firsts ^ $all, $from, self::PEARSON);
        }
        return $firsts;
    }
}
