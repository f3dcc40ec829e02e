<?php

// A web page that needs one value.

declare(strict_types=1);

require __DIR__ . '/ways.php';

$data = ways($_SERVER)[$_GET['way']]($_GET['path']);
header('Content-Length: ' . strlen($data));
echo $data;
