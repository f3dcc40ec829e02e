<?php

// What a read costs by each way, side by side: reads.php PLACES ROUNDS. Prints JSON: by way, the nanoseconds of first
// reads and of further ones, the median and the 99th of a hundred. Each first read is in a process of its own, which
// compiles what it loads; the further ones have OPcache, as under php-fpm.

declare(strict_types=1);

require __DIR__ . '/ways.php';

const NODES = 1_000;
/** As long as one measurement of a way takes. */
const NS = 20_000_000;

[, $places, $rounds] = $argv;
$ways = array_slice(ways(json_decode($places, true)), 1);
$paths = array_map(static fn (int $n) => "/config/$n", range(0, NODES - 1));

$first = static function (string $way) use ($places, $paths): int {
    $command = [PHP_BINARY, __DIR__ . '/first.php', $places, $way, $paths[array_rand($paths)]];
    $told = (string) shell_exec(implode(' ', array_map(escapeshellarg(...), $command)));
    return ctype_digit($told) ? (int) $told : throw new RuntimeException("$way: $told");
};

/** As many reads as fit: of slow ones each is measured, of fast ones many together. */
$further = static function (callable $read) use ($paths): array {
    $began = hrtime(true);
    foreach (array_slice($paths, 0, 10) as $path) {
        $read($path);
    }
    $atOnce = max(1, min(NODES, intdiv(1_000_000, intdiv(hrtime(true) - $began, 10))));
    $some = array_slice($paths, 0, $atOnce);
    $some = array_combine($some, array_map(basename(...), $some));
    $times = [];
    for ($end = hrtime(true) + NS; ($then = hrtime(true)) < $end;) {
        foreach ($some as $path => $data) {
            if ($read($path) !== $data) {
                throw new RuntimeException("another answer for $path");
            }
        }
        $times[] = (hrtime(true) - $then) / $atOnce;
    }
    return $times;
};

$of = static function (array $times, int $percent): float {
    sort($times);
    return $times[intdiv(count($times) * $percent, 100)];
};

$times = array_map(static fn () => ['first' => [], 'further' => []], $ways);
for ($round = 0; $round < $rounds; $round++) {
    foreach ($ways as $way => $read) {
        array_push($times[$way]['further'], ...$further($read));
        $times[$way]['first'][] = $first($way);
    }
}
echo json_encode(array_map(static fn (array $kinds) => array_map(
    static fn (array $times) => ['median' => $of($times, 50), 'p99' => $of($times, 99)],
    $kinds,
), $times));
