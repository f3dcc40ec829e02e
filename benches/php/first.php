<?php

// The first read of a process: as a page, or first.php PLACES WAY PATH. Says how many nanoseconds it took from before
// anything that it needs is loaded: with the classes, the opening of the file or connection, and the value.

declare(strict_types=1);

require __DIR__ . '/ways.php';

[$places, $way, $path] = PHP_SAPI === 'cli'
    ? [json_decode($argv[1], true), $argv[2], $argv[3]]
    : [$_SERVER, $_GET['way'], $_GET['path']];
$read = ways($places)[$way];
$began = hrtime(true);
$data = $read($path);
$took = hrtime(true) - $began;
echo $data === basename($path) ? $took : "another answer: $data";
