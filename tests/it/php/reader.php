<?php

// Reads the shared file in a tight loop for so many seconds, and tells what was wrong.
// Each node's data begins with a number, which says what must follow, and at which path.

declare(strict_types=1);

[, $file, $seconds, $nodes] = $argv;
$nodes = (int) $nodes;
$db = dba_open($file, 'r', 'lmdb');
$until = microtime(true) + (float) $seconds;
[$reads, $last, $revision, $wrong] = [0, [], 0, []];
while ($wrong === [] && microtime(true) < $until) {
    $node = random_int(0, $nodes - 1);
    $path = "/n$node";
    $data = dba_fetch("node$path", $db);
    $number = (int) $data;
    if ($data === false) {
        $wrong[] = "$path is missing";
    } elseif ($number % $nodes !== $node || $data !== "$number " . str_repeat('x', $number * 37 % 3_000) . " end of $number") {
        $wrong[] = "$path is torn, or never was: $data";
    } elseif ($number < ($last[$path] ?? 0)) {
        $wrong[] = "$path went back from $last[$path] to $number";
    }
    $last[$path] = $number;
    if ($reads++ % 8 === 0) {
        $now = json_decode(dba_fetch('meta/freshness', $db))->revision;
        if ($now < $revision) {
            $wrong[] = "the revision went back from $revision to $now";
        }
        $revision = $now;
    }
}
echo json_encode(['reads' => $reads, 'seen' => max([0, ...array_values($last)]), 'wrong' => $wrong]);
