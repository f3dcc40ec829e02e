<?php

// The first read of a process, in nanoseconds from before anything of it is loaded: first.php PLACES WAY PATH

declare(strict_types=1);

require __DIR__ . '/ways.php';

[, $places, $way, $path] = $argv;
$read = ways(json_decode($places, true))[$way];
$began = hrtime(true);
$read($path);
echo hrtime(true) - $began;
