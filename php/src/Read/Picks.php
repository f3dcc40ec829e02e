<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\TransportFailed;

/**
 * Chooses among the instances of a service by what the shared file has in `pick/…`, as the sidecar itself would:
 * `tests/vectors/resolve.json` has what both must choose. A chunk has the hashes of 256 addresses, and then their weights.
 *
 * @internal
 */
final class Picks
{
    public const CHUNK = 256;

    /** A draw has 31 bits, so that no product of two numbers passes what an integer holds. */
    private const MAX_DRAW = 0x7fffffff;
    /** How many bits of a logarithm lie behind its point. */
    private const FRACTION = 26;

    /** @var list<string> what was read last, of which a page may choose more than once, */
    private static array $last = [];
    /** @var array<int, int> by their numbers, the hashes of those in it that can be called, */
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
     * The numbers of those that do best for a key: more than one only where they are equal.
     *
     * @param list<string|false> $chunks
     * @param int $heaviest the greatest weight
     * @param array<int, int> $others by number, weights that are others than in the chunks
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
     * The number of a random one, each as likely as its weight among theirs; null: there is none.
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

    /** Of a key or an address. */
    public static function hash(string $text): int
    {
        return unpack('J', hash('xxh3', $text, true))[1] >> 2 & 0x3fffffffffffffff;
    }

    /** What an address draws for a key, each by its hash. */
    public static function draw(int $key, int $address): int
    {
        $mixed = $key ^ $address;
        $product = ($mixed >> 31) * ($mixed & self::MAX_DRAW);
        return ($product >> 31 ^ $product) & self::MAX_DRAW;
    }

    /** −log2 of a draw as a part of all, and a last bit more. */
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

    /** How many instances are in a chunk. */
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
     * Those of the greatest draw. It is `draw` of each, written out: a call of it would take longer than all else.
     *
     * @param array<int, int> $hashes
     * @return list<int>
     */
    private static function greatest(array $hashes, int $key): array
    {
        [$best, $greatest] = [[], -1];
        foreach ($hashes as $number => $hash) {
            $mixed = $hash ^ $key;
            $product = ($mixed >> 31) * ($mixed & self::MAX_DRAW);
            $draw = ($product >> 31 ^ $product) & self::MAX_DRAW;
            if ($draw >= $greatest) {
                $best = $draw === $greatest ? [...$best, $number] : [$number];
                $greatest = $draw;
            }
        }
        return $best;
    }

    /**
     * Those with most weight for each bit of their distance.
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
            // No logarithm is less than this.
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
