<?php

declare(strict_types=1);

// A sidecar that answers as a test has written down: fake.php ADDRESS FILE, which holds a list of connections, each a
// list of answers (see Answer). It serves one connection after the other, and tells on standard output what it sees.

[, $address, $file] = $argv;
$server = stream_socket_server($address) ?: exit(1);
$say = static function (string $line): void {
    echo "$line\n";
};
$say('listening ' . stream_socket_get_name($server, false));

$take = static function ($client): ?array {
    $head = fread($client, 4);
    if (strlen((string) $head) < 4) {
        return null;
    }
    $request = '';
    for ($left = unpack('N', $head)[1]; $left > 0; $left -= strlen($piece)) {
        $request .= $piece = (string) fread($client, $left);
        if ($piece === '') {
            return null;
        }
    }
    $length = unpack('N', $request, 4)[1];
    return [substr($request, 8, $length), unpack('N', $request, 8 + $length)[1]];
};

foreach (json_decode(file_get_contents($file), true) as $answers) {
    $client = stream_socket_accept($server, 60);
    $say('connected');
    foreach ($answers as $answer) {
        $question = $take($client);
        if ($question === null) {
            break;
        }
        [$name, $number] = $question;
        $say("asked $name");
        usleep($answer['pauseMs'] * 1_000);
        $head = pack('N', 0x80010000 | $answer['type']) . pack('N', strlen($name)) . $name;
        $reply = $head . pack('N', $number + $answer['shift']) . base64_decode($answer['body']);
        $frame = pack('N', strlen($reply)) . $reply;
        fwrite($client, substr($frame, 0, $answer['cut'] ?? strlen($frame)));
        if ($answer['close']) {
            fclose($client);
            $say('closed');
            continue 2;
        }
    }
    fread($client, 1);
    $say('left');
    fclose($client);
}
