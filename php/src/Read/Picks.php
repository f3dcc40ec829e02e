<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\TransportFailed;

/**
 * Chooses among the instances of a service by the `pick/…` entries in the shared file, as the sidecar itself would:
 * `tests/vectors/resolve.json` has the expected choices of both. A chunk has the hashes of 256 addresses, followed by
 * their weights.
 *
 * @internal
 */
final class Picks
{
    public const CHUNK = 256;

    /** A draw has 31 bits, so that no product of two numbers overflows an integer. */
    private const MAX_DRAW = 0x7fffffff;
    /** The number of fractional bits of a logarithm. */
    private const FRACTION = 26;

    /** @var list<string> the chunks that were read last, since a page may choose more than once, */
    private static array $last = [];
    /** @var array<int, int> the hashes of the callable instances in them, by number, */
    private static array $hashes = [];
    /** @var ?array<int, int> and their weights; null: they are equal. */
    private static ?array $weights = null;

    /** The weight of the instance with this number in a chunk. */
    public static function weight(string|false $chunk, int $number): int
    {
        $count = self::count($chunk);
        return $number < $count
            ? unpack('N', $chunk, 8 * $count + 4 * $number)[1]
            : throw new TransportFailed('an entry is damaged');
    }

    /**
     * The numbers of the best ones for a key: more than one only if they are equal.
     *
     * @param list<string|false> $chunks
     * @param int $heaviest the greatest weight
     * @param array<int, int> $others weights that differ from those in the chunks, by number
     * @return list<int>
     */
    public static function best(array $chunks, int $heaviest, string $key, array $others = []): array
    {
        self::read($chunks, $heaviest, $others);
        $key = self::hash($key);
        return self::$weights === null
            ? self::greatest(self::$hashes, $key)
            : self::bestByWeight(self::$hashes, self::$weights, $key);
    }

    /**
     * The number of a random one, each in proportion to its weight; null: there is none.
     *
     * @param list<string|false> $chunks
     * @param array<int, int> $others as for `best`
     */
    public static function random(array $chunks, int $heaviest, array $others = []): ?int
    {
        self::read($chunks, $heaviest, $others);
        $weights = self::$weights ?? array_fill_keys(array_keys(self::$hashes), $heaviest);
        $left = random_int(0, max(array_sum($weights), 1) - 1);
        foreach ($weights as $number => $weight) {
            if (($left -= $weight) < 0) {
                return $number;
            }
        }
        return null;
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
        $product = ($mixed >> 31) * ($mixed & self::MAX_DRAW);
        return ($product >> 31 ^ $product) & self::MAX_DRAW;
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

    /** The number of instances in a chunk. */
    private static function count(string|false $chunk): int
    {
        $bytes = strlen((string) $chunk);
        return $bytes > 0 && $bytes % 12 === 0 ? intdiv($bytes, 12) : throw new TransportFailed('an entry is damaged');
    }

    /**
     * @param list<string|false> $chunks
     * @param array<int, int> $others
     */
    private static function read(array $chunks, int $heaviest, array $others): void
    {
        if ($chunks === self::$last && $others === []) {
            return;
        }
        [$hashes, $weights] = ['', ''];
        foreach ($chunks as $chunk) {
            $count = self::count($chunk);
            $hashes .= substr($chunk, 0, 8 * $count);
            $weights .= substr($chunk, 8 * $count);
        }
        $areEqual = $weights === str_repeat(pack('N', $heaviest), intdiv(strlen($weights), 4));
        self::$hashes = array_values(unpack('J*', $hashes));
        self::$weights = $areEqual && $others === [] ? null : array_values(unpack('N*', $weights));
        self::$last = $others === [] ? $chunks : [];
        if (self::$weights !== null) {
            self::$weights = array_replace(self::$weights, array_intersect_key($others, self::$weights));
            foreach (array_keys(self::$weights, 0, true) as $number) {
                unset(self::$hashes[$number], self::$weights[$number]);
            }
            if (self::$weights === [] || min(self::$weights) === max(self::$weights)) {
                self::$weights = null;
            }
        }
    }

    /**
     * Those with the greatest draw. This is `draw` for each, inlined: calling it would take longer than everything
     * else.
     *
     * @param array<int, int> $hashes
     * @return list<int>
     */
    private static function greatest(array $hashes, int $key): array
    {
        [$best, $greatest] = [[], -1];
        foreach ($hashes as $hash) {
            $product = (($hash ^= $key) >> 31) * ($hash & self::MAX_DRAW);
            if ((($product >> 31 ^ $product) & self::MAX_DRAW) >= $greatest) {
                $draw = ($product >> 31 ^ $product) & self::MAX_DRAW;
                $best = $draw === $greatest ? [...$best, $hash ^ $key] : [$hash ^ $key];
                $greatest = $draw;
            }
        }
        // A number for each would make the loop longer.
        return count($best) === 1 ? [array_search($best[0], $hashes, true)] : array_keys(array_intersect($hashes, $best));
    }

    /**
     * Those with the most weight per bit of distance.
     *
     * @param array<int, int> $hashes
     * @param array<int, int> $weights
     * @return list<int>
     */
    private static function bestByWeight(array $hashes, array $weights, int $key): array
    {
        [$best, $greatest, $heaviest, $distance] = [[], -1, 0, 1];
        foreach ($hashes as $number => $hash) {
            $mixed = $hash ^ $key;
            $product = ($mixed >> 31) * ($mixed & self::MAX_DRAW);
            $draw = ($product >> 31 ^ $product) & self::MAX_DRAW;
            $weight = $weights[$number];
            // A lower bound of the logarithm.
            if ($weight * $distance < $heaviest * (self::MAX_DRAW - $draw >> 5)) {
                continue;
            }
            $own = self::distance($draw);
            $order = $weight * $distance <=> $heaviest * $own ?: $draw <=> $greatest;
            if ($order >= 0) {
                $best = $order === 0 ? [...$best, $number] : [$number];
                [$greatest, $heaviest, $distance] = [$draw, $weight, $own];
            }
        }
        return $best;
    }
}
