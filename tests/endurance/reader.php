<?php
// Reads what it is asked for on its input (`endpoint PATH` or `file PATH`), over Thrift or from the shared file, and
// prints each answer as a line of JSON.
require __DIR__ . '/../../examples/php/autoload.php';

use Roster\Thrift\{GetRequest, NotFound, RosterClient};
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Transport\{TBufferedTransport, TSocket};

[, $folder] = $argv;

function endpoint(string $folder, string $path): array
{
    static $client = null;
    try {
        if ($client === null) {
            $socket = new TSocket("unix://$folder/roster.sock", 1);
            $socket->setSendTimeout(5000);
            $socket->setRecvTimeout(5000);
            $transport = new TBufferedTransport($socket);
            $transport->open();
            $client = new RosterClient(new TBinaryProtocol($transport));
        }
        $reply = $client->get(new GetRequest(['path' => $path]));
        return ['data' => $reply->node->data, 'revision' => $reply->freshness->revision, 'age' => $reply->freshness->ageMs];
    } catch (NotFound $absent) {
        return ['data' => null, 'revision' => $absent->freshness->revision, 'age' => $absent->freshness->ageMs];
    } catch (Throwable $error) {
        $client = null;
        return ['error' => get_class($error) . ': ' . $error->getMessage()];
    }
}

/** Each fetch is of its own revision: only what lies between two reports of the same one is of that. */
function file_(string $folder, string $path): array
{
    static $db = null;
    for ($attempt = 0; $attempt < 50; $attempt++) {
        $db ??= @dba_open("$folder/shared.mdb", 'r', 'lmdb');
        if (!$db) {
            $db = null;
            return ['error' => 'it cannot be opened'];
        }
        $before = json_decode((string) dba_fetch('meta/freshness', $db), true);
        $data = dba_fetch("node$path", $db);
        $after = json_decode((string) dba_fetch('meta/freshness', $db), true);
        $silent = $before ? abs(microtime(true) * 1000 - $before['writtenAt']) : INF;
        if ($silent > 3000 && $attempt === 0) {
            dba_close($db);
            $db = null;
        } elseif ($before && $after && $before['revision'] === $after['revision']) {
            $mirrored = array_filter($before['sources'], fn ($source) => $source['roots'] !== []);
            if ($data === false && in_array(false, array_column($mirrored, 'whole'), true)) {
                return ['error' => 'the file is not whole yet'];
            }
            $age = $before['ageMs'] + ($silent > 3000 ? (int) $silent : 0);
            return ['data' => $data === false ? null : $data, 'revision' => $before['revision'], 'age' => $age];
        }
    }
    return ['error' => 'it changes all the time'];
}

while (($question = fgets(STDIN)) !== false) {
    [$way, $path] = explode(' ', trim($question));
    echo json_encode($way === 'file' ? file_($folder, $path) : endpoint($folder, $path)), "\n";
}
