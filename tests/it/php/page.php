<?php

// A page that reads the shared file many times, by a handle which outlives it, and says which worker it is.

$db = @dba_popen($_SERVER['SHARED_FILE'], 'r', 'lmdb');
for ($n = 0; $db && $n < 100; $n++) {
    $data = @dba_fetch('node/a', $db);
}
echo getmypid(), ' ', $data ?? 'no handle';
