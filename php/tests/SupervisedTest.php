<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Supervisor;
use Roster\Wire\MessagePack;

/** A worker that a sidecar has started speaks over the channel that it has inherited. */
final class SupervisedTest extends TestCase
{
    private const JOB = ['cmd' => 'worker-command', 'name' => 'roster:perform', 'data' => [
        'id' => 1, 'attempt' => 1, 'queue' => 'q', 'name' => 'n', 'payload' => '[]', 'keepsResult' => true,
    ]];

    public function testItMakesItselfKnownAndReportsItsServicesWhenAsked(): void
    {
        $sidecar = new Supervisor(isAccepted: false);
        $auth = ['cmd' => 'auth', 'token' => '', 'native' => 1, 'id' => 'web/3'];
        self::assertSame($auth, $sidecar->accept());
        $sidecar->receive('worker-ready');
        $demo = ['name' => 'demo', 'metadata' => ['version' => '1.2.0', 'zone' => 'b', 'weight' => 3]];
        self::assertSame([[['demo' => $demo]], null], $sidecar->ask(['cmd' => 'list']));
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
        self::assertSame([[], null], $sidecar->call('nothing'));
        self::assertSame([[1, null, ['three' => 3]], null], $sidecar->call('values'));
        $sidecar->send(['cmd' => 'ping', 'uuid' => 'p']);
        self::assertSame(['cmd' => 'pong', 'uuid' => 'p'], $sidecar->receive('pong'));
        $sidecar->call('offer', ['more', []]);
        $sidecar->receive('register');
        self::assertSame(['demo', 'more'], array_keys($sidecar->ask(['cmd' => 'list'])[0][0]));
    }

    public function testItsEnvironmentIsItsOwn(): void
    {
        $sidecar = new Supervisor(['ROSTER_PARAMS' => '{"from":"shop@example.com","deep":{"list":[1,2]}}']);
        $params = ['from' => 'shop@example.com', 'deep' => ['list' => [1, 2]]];
        self::assertSame([$params], $sidecar->call('params')[0]);
        foreach (['ROSTER_CHANNEL', 'ROSTER_WORKER', 'ROSTER_PARAMS', 'LISTEN_FDS', 'LISTEN_PID'] as $variable) {
            self::assertSame([[false, null]], $sidecar->call('environment', [$variable])[0], $variable);
        }
    }

    public function testOneThatIsHandedConnectionsAndTakesNoneSaysSo(): void
    {
        $sidecar = new Supervisor(['ROSTER_CONNECTIONS' => '9']);
        self::assertStringContainsString('onConnection() was not called', $sidecar->receive('worker-log')['message']);
    }

    public function testWithoutAChannelItSaysWhy(): void
    {
        foreach ([
            ['-u', 'ROSTER_CHANNEL', 'it is not set'], ['ROSTER_CHANNEL=1', 'is no descriptor'],
            ['ROSTER_CHANNEL=x', 'is no descriptor'], ['ROSTER_CHANNEL=77', 'is no socket'],
        ] as $settings) {
            $why = array_pop($settings);
            $command = ['env', ...$settings, PHP_BINARY, __DIR__ . '/Support/worker.php'];
            $sidecar = new Supervisor(command: $command, isAccepted: false);
            self::assertSame(255, $sidecar->worker->await());
            self::assertStringContainsString($why, $sidecar->worker->output());
        }
    }

    public function testARefusalAndASidecarThatSaysNothingEndIt(): void
    {
        $refusing = new Supervisor(isAccepted: false);
        $refusing->receive('auth');
        $refusing->send(['cmd' => 'auth-failed', 'message' => 'no place']);
        self::assertSame(255, $refusing->worker->await());
        self::assertStringContainsString('refused: no place', $refusing->worker->output());
        $closing = new Supervisor(isAccepted: false);
        $closing->close();
        self::assertSame(255, $closing->worker->await());
    }

    public function testItAnswersCommands(): void
    {
        $sidecar = new Supervisor();
        $command = static fn (string $name, mixed $data = null) =>
            $sidecar->ask(['cmd' => 'worker-command', 'name' => $name, 'data' => $data]);
        self::assertSame([['pong'], null], $command('ping'));
        self::assertSame([['cba'], null], $command('reverse', 'abc'));
        self::assertSame([[1, 2, 3], null], $command('count', 3));
        $error = $command('refuse')[1]['data'];
        self::assertSame(['message' => 'not now', 'code' => 5, 'class' => 'DomainException'], $error);
        self::assertSame('NotFound', $command('nope')[1]['data']['class']);
        self::assertSame('TypeError', $command('reverse', [])[1]['data']['class']);
        self::assertSame(0, $command('status')[0][0]['jobs']);
        $error = $command('roster:perform', ['queue' => 'none'])[1]['data'];
        self::assertSame("Nobody performs jobs of 'none'", $error['message']);
        self::assertSame(1, $command('status')[0][0]['jobs']);
        $paced = $sidecar->beginCall('paced', 300, 0.01);
        $sidecar->call('add', [1, 2]);
        $status = $command('status')[0][0];
        self::assertSame(['web/3', $sidecar->worker->id, 1, 1, 'demo.paced'], [
            $status['worker'], $status['pid'], $status['done'], $status['underWay'], $status['doing'][0]['call'],
        ]);
        self::assertGreaterThan(100_000, $status['memory']);
        foreach ([$status['since'], $status['doing'][0]['since']] as $since) {
            self::assertLessThan(60, abs($since / 1_000 - microtime(true)));
        }
        self::assertSame(range(1, 300), $sidecar->answer($paced)[0]);
        self::assertSame([2, 0, []], array_values(array_intersect_key(
            $command('status')[0][0],
            ['done' => 0, 'underWay' => 0, 'doing' => 0],
        )));
    }

    public function testWorkersSendAndHearMessages(): void
    {
        $sidecar = new Supervisor();
        foreach (['send', 'broadcast'] as $method) {
            $data = ['bytes' => "\xff", 'text' => 'ü', 'none' => null];
            self::assertNull($sidecar->call($method, [$data])[1]);
            self::assertSame(['cmd' => "worker-$method", 'data' => $data], $sidecar->receive("worker-$method"));
        }
        $tooMuch = ['more than 65600 values' => [66_000, 1], 'longer than 1048576 bytes' => [2, 600_000]];
        foreach ($tooMuch as $why => $much) {
            $error = $sidecar->call('broadcastMuch', $much)[1]['data'];
            self::assertSame('Roster\Exception\InvalidRequest', $error['class']);
            self::assertStringContainsString($why, $error['message']);
        }
        $sidecar->send(['cmd' => 'worker-message', 'from' => 'mail/1', 'data' => ['a' => 1]]);
        $log = ['cmd' => 'worker-log', 'level' => 'notice', 'message' => 'heard'];
        self::assertSame($log + ['context' => ['data' => ['a' => 1], 'from' => 'mail/1']], $sidecar->receive('worker-log'));
        $sidecar->send(['cmd' => 'reload', 'what' => 'all']);
        $reload = ['data' => ['cmd' => 'reload', 'what' => 'all'], 'from' => null];
        self::assertSame($log + ['context' => $reload], $sidecar->receive('worker-log'));
        $sidecar->send(['cmd' => 'worker-message', 'from' => 'mail/1', 'data' => 'fail']);
        $failed = $sidecar->receive('worker-log');
        self::assertSame(['error', 'a message from mail/1', 'no message'], [
            $failed['level'], $failed['context']['what'], $failed['context']['exception']['message'],
        ]);
    }

    public function testMessagesMayComeInPiecesOrTogether(): void
    {
        $sidecar = new Supervisor();
        $call = static fn (string $uuid, mixed ...$arguments) => MessagePack::pack(
            ['cmd' => 'call', 'uuid' => $uuid, 'data' => ['service' => 'demo', 'method' => 'echo'] + compact('arguments')]
        );
        $frames = $call('a', "\xff\x00", ['ü' => [1.5, null]]) . $call('b') . $call('c', str_repeat('x', 500_000));
        foreach (str_split(substr($frames, 0, 200)) as $byte) {
            $sidecar->write($byte);
        }
        $sidecar->write(substr($frames, 200));
        self::assertSame([[["\xff\x00", ['ü' => [1.5, null]]]], null], $sidecar->answer('a'));
        self::assertSame([[[]], null], $sidecar->answer('b'));
        self::assertSame(500_000, strlen($sidecar->answer('c')[0][0][0]));
    }

    public function testWhatMakesNoSenseIsPassedOver(): void
    {
        $sidecar = new Supervisor();
        $call = ['service' => 'demo', 'method' => 'add', 'arguments' => [1, 2]];
        $long = str_repeat('u', 1_025);
        foreach ([
            null, 7, 'text', [], [1, 2], ['cmd' => 7], ['cmd' => ['call']], ['cmd' => 'call'], ['cmd' => 'nothing'],
            ['cmd' => 'call', 'uuid' => 7, 'data' => $call], ['cmd' => 'call', 'uuid' => $long, 'data' => $call],
            ['cmd' => 'close', 'uuid' => 'nobody'], ['cmd' => 'stream-taken', 'uuid' => 'nobody', 'count' => []],
            ['cmd' => 'data', 'uuid' => 'u', 'data' => 1], ['cmd' => 'pong'], ['cmd' => 'register', 'registers' => [[]]],
            ['cmd' => 'auth', 'token' => 'x'], ['cmd' => 'auth-failed'], ['cmd' => 'worker-command'],
            ['cmd' => 'worker-message'],
        ] as $message) {
            $sidecar->write(MessagePack::pack($message));
        }
        $sidecar->write("\x82\xc0\x01\xa3cmd\xa4list\x81\x91\x01\xcb" . pack('E', NAN));
        foreach ([null, 'text', ['service' => []], ['service' => 'demo', 'method' => 'add', 'arguments' => 'x']] as $data) {
            self::assertNotNull($sidecar->ask(['cmd' => 'call', 'data' => $data])[1]);
        }
        self::assertNotNull($sidecar->ask(['cmd' => 'worker-command', 'name' => [], 'data' => 1])[1]);
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
    }

    public function testNoCodeThatComesIsRun(): void
    {
        $sidecar = new Supervisor();
        $ask = static fn (string $code) => $sidecar->ask(['cmd' => 'callback', 'data' => ['serialized' => $code]]);
        self::assertSame(
            ['message' => 'callback not allowed', 'code' => 0, 'class' => 'RuntimeException'],
            $ask('O:47:"Laravel\SerializableClosure\SerializableClosure":1:{}')[1]['data'],
        );
        $list = '…$stream->end(\ReactphpX\RegisterCenter\ServiceRegistry::getServiceNameAndMetadata());…';
        self::assertSame(['demo'], array_keys($ask($list)[0][0]));
    }

    /** @dataProvider wrongBytes */
    public function testWhatPassesABoundEndsTheWorkerWithAReason(string $bytes, string $why): void
    {
        $sidecar = new Supervisor();
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
        $sidecar->write($bytes);
        self::assertSame(255, $sidecar->worker->await());
        self::assertStringContainsString($why, $sidecar->worker->output());
    }

    public static function wrongBytes(): array
    {
        return [
            ["\x81\xa3cmd\xdb\x7f\xff\xff\xff", 'longer than'], [str_repeat("\x91", 40), 'deeper than'],
            ["\xdd\x7f\xff\xff\xff", 'more than'], ["\xc1", 'no MessagePack'],
        ];
    }

    public function testASidecarThatIsGoneEndsTheWorkerAndWhatItDoes(): void
    {
        $folder = new Folder();
        $sidecar = new Supervisor();
        $sidecar->beginCall('blocks', 1_000_000, 10, "$folder->path/given");
        $sidecar->receive('data');
        $sidecar->close();
        self::assertSame(255, $sidecar->worker->await());
        self::assertFileExists("$folder->path/given.ended");
        self::assertStringContainsString('Roster\Exception\Disconnected', $sidecar->worker->output());
    }

    public function testAStopThatCallsWaitForRefusesThoseThatAreNotBegun(): void
    {
        $sidecar = new Supervisor();
        $call = static fn (string $uuid, string $method, mixed ...$arguments) => MessagePack::pack(
            ['cmd' => 'call', 'uuid' => $uuid, 'data' => ['service' => 'demo'] + compact('method', 'arguments')]
        );
        $folder = new Folder();
        $sidecar->write($call('busy', 'sleep', 0.5, "$folder->path/begun"));
        Process::until(static fn () => is_file("$folder->path/begun"), 'it is busy');
        $sidecar->write($call('waiting', 'add', 1, 2) . MessagePack::pack(['cmd' => 'worker-stop']));
        self::assertSame([['slept'], null], $sidecar->answer('busy'));
        self::assertSame('refused', $sidecar->answer('waiting')[1]['status']);
        self::assertSame(0, $sidecar->worker->await());
    }

    /** @dataProvider stops */
    public function testAStopEndsWhatIsUnderWayAndRefusesTheRest(callable $stop): void
    {
        $sidecar = new Supervisor();
        $paced = $sidecar->beginCall('paced', 100, 0.02);
        $sidecar->receive('data');
        $stop($sidecar);
        $sidecar->receive('remove');
        [$values, $error] = $sidecar->call('add', [1, 2]);
        self::assertSame([[], 'refused', 'the master is leaving'], [$values, $error['status'], $error['data']['message']]);
        self::assertSame([[]], $sidecar->ask(['cmd' => 'list'])[0]);
        self::assertSame([['pong'], null], $sidecar->ask(['cmd' => 'worker-command', 'name' => 'ping']));
        $refusal = $sidecar->ask(['cmd' => 'worker-command', 'name' => 'reverse', 'data' => 'abc'])[1];
        self::assertSame('refused', $refusal['status']);
        self::assertSame(range(2, 100), $sidecar->answer($paced)[0]);
        self::assertSame(0, $sidecar->worker->await());
        self::assertTrue($sidecar->isClosed());
        self::assertStringContainsString('ended', $sidecar->worker->output());
    }

    public static function stops(): array
    {
        return [
            'by its channel' => [static fn (Supervisor $sidecar) => $sidecar->send(['cmd' => 'worker-stop'])],
            'by a signal' => [static fn (Supervisor $sidecar) => posix_kill($sidecar->worker->id, SIGTERM)],
            'twice' => [static function (Supervisor $sidecar): void {
                $sidecar->send(['cmd' => 'worker-stop']);
                posix_kill($sidecar->worker->id, SIGTERM);
                posix_kill($sidecar->worker->id, SIGTERM);
            }],
        ];
    }

    public function testItStopsWithoutTheExtensionPcntl(): void
    {
        $without = 'disable_functions=pcntl_signal,pcntl_async_signals,pcntl_signal_get_handler';
        $sidecar = new Supervisor(command: [PHP_BINARY, '-d', $without, __DIR__ . '/Support/worker.php']);
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
        $sidecar->send(['cmd' => 'worker-stop']);
        self::assertSame(0, $sidecar->worker->await());
    }

    public function testAStopThatTheEndOfTheChannelFollowsIsAStop(): void
    {
        $sidecar = new Supervisor();
        $sidecar->receive('worker-ready');
        $sidecar->send(['cmd' => 'worker-stop']);
        $sidecar->close();
        self::assertSame(0, $sidecar->worker->await());
    }

    public function testWhatIsLoggedBeforeTheProcessEndsArrives(): void
    {
        $sidecar = new Supervisor();
        $sidecar->beginCall('logAndLeave');
        self::assertSame('the last word', $sidecar->receive('worker-log')['message']);
        self::assertSame(7, $sidecar->worker->await());
    }

    public function testAMethodThatEndsTheProcessLosesNoAnswerBeforeIt(): void
    {
        $sidecar = new Supervisor();
        $before = $sidecar->beginCall('bytes');
        $sidecar->beginCall('leave');
        self::assertSame([["\xff\x00\xfe"], null], $sidecar->answer($before));
        self::assertSame(7, $sidecar->worker->await());
        self::assertTrue($sidecar->isClosed());
    }

    public function testWhatAJobDiesOfIsReportedWithinTheMemoryThatTheApplicationHas(): void
    {
        $sidecar = self::performer('register_shutdown_function(static function (): void {'
            . ' $large = str_repeat("x", 30 << 20); fwrite(STDERR, "limit " . ini_get("memory_limit")); }); exit(1);');
        $error = $sidecar->ask(self::JOB)[1]['data'];
        self::assertSame('its worker has ended: it called exit() or die()', $error['message']);
        self::assertSame(1, $sidecar->worker->await());
        self::assertStringContainsString('limit 128M', $sidecar->worker->output());
    }

    public function testTheMemoryThatTheReportTakesIsGivenBack(): void
    {
        $sidecar = self::performer('register_shutdown_function(static function (): void {'
            . ' fwrite(STDERR, "limit " . ini_get("memory_limit")); });'
            . ' ini_set("memory_limit", (string) (memory_get_usage(true) + (1 << 20)));'
            . ' $limit = ini_get("memory_limit"); fwrite(STDERR, "before $limit\n"); exit(1);');
        self::assertNotNull($sidecar->ask(self::JOB)[1]);
        self::assertSame(1, $sidecar->worker->await());
        self::assertMatchesRegularExpression('/before (\d+)\nlimit \1$/', $sidecar->worker->output());
    }

    public function testWhatIsEchoedWhereNobodyReadsHarmsNothing(): void
    {
        $command = ['bash', '-c', 'exec "$@" > >(exec true)', 'bash', PHP_BINARY, __DIR__ . '/Support/worker.php'];
        $sidecar = new Supervisor(command: $command);
        for ($times = 0; $times < 20; $times++) {
            self::assertSame([['cba'], null], $sidecar->call('speak', ['abc']));
        }
    }

    public function testACallIsMadeOnceAndNotAfterItWasClosed(): void
    {
        $folder = new Folder();
        $file = $folder->file('trace', '');
        $sidecar = new Supervisor();
        $append = static fn (string $uuid, string $text) => $sidecar->send(['cmd' => 'call', 'uuid' => $uuid, 'data' => [
            'service' => 'demo', 'method' => 'append', 'arguments' => [$file, $text],
        ]]);
        $busy = $sidecar->beginCall('sleep', 1.0);
        foreach (['once', 'once', 'closed', '7'] as $uuid) {
            $append($uuid, "$uuid ");
        }
        $sidecar->send(['cmd' => 'close', 'uuid' => 'closed']);
        self::assertSame([['slept'], null], $sidecar->answer($busy));
        self::assertSame([[], null], $sidecar->answer('once'));
        self::assertSame([[], null], $sidecar->answer('7'));
        self::assertSame('once 7 ', file_get_contents($file));
    }

    public function testOnlySoManyCallsWait(): void
    {
        [$sidecar, $folder] = [new Supervisor(), new Folder()];
        $arguments = [2.0, "$folder->path/begun"];
        $busy = $sidecar->beginCall('sleep', ...$arguments);
        Process::until(static fn () => is_file($arguments[1]), 'it is busy');
        $uuids = array_map(static fn (int $number) => "call-$number", range(1, 1_200));
        $sidecar->write(implode('', array_map(static fn (string $uuid) => MessagePack::pack(
            ['cmd' => 'call', 'uuid' => $uuid, 'data' => ['service' => 'demo', 'method' => 'fixed', 'arguments' => []]]
        ), $uuids)));
        self::assertSame([['slept'], null], $sidecar->answer($busy));
        $statuses = array_map(static fn (string $uuid) => $sidecar->answer($uuid)[1]['status'] ?? 'done', $uuids);
        // Some are done before the last is read.
        self::assertGreaterThanOrEqual(1_024, array_search('refused', $statuses, true));
        self::assertGreaterThan(100, array_count_values($statuses)['refused']);
    }

    public function testWhatWaitsTakesLittleMemoryHoweverItIsMade(): void
    {
        [$sidecar, $folder] = [new Supervisor(), new Folder()];
        $arguments = [0.5, "$folder->path/begun"];
        $busy = $sidecar->beginCall('sleep', ...$arguments);
        Process::until(static fn () => is_file($arguments[1]), 'it is busy');
        // Each three bytes of it become an array of 400.
        $greedy = "\xdd" . pack('N', 21_000) . str_repeat("\x81\x01\xc0", 21_000);
        $head = static fn (string $uuid) => "\x83\xa3cmd\xa4call\xa4uuid" . MessagePack::pack($uuid)
            . "\xa4data\x83\xa7service\xa4demo\xa6method\xa5fixed\xa9arguments";
        $uuids = array_map(static fn (int $number) => "greedy-$number", range(1, 60));
        foreach ($uuids as $uuid) {
            $sidecar->write($head($uuid) . $greedy);
        }
        self::assertSame([['slept'], null], $sidecar->answer($busy));
        foreach ($uuids as $uuid) {
            self::assertSame([['static'], null], $sidecar->answer($uuid));
        }
        self::assertLessThan(64 << 20, $sidecar->call('peak')[0][0]);
    }

    public function testASidecarThatDoesNotReadMakesTheWorkerHoldLittle(): void
    {
        $sidecar = new Supervisor();
        $sidecar->call('peak');
        $uuids = [];
        for ($count = 0; $count < 60; $count++) {
            $uuids[] = $sidecar->beginCall('many', 900_000);
        }
        $uuids[] = $sidecar->beginCall('blocks', 200, 100_000);
        $uuids[] = $sidecar->beginCall('logMuch', 500, 10_000);
        // One that does not wait has done it all by then.
        sleep(1);
        $bytes = 0;
        foreach ($uuids as $uuid) {
            [$values, $error] = $sidecar->answer($uuid);
            self::assertNull($error);
            $bytes += array_sum(array_map('strlen', $values));
        }
        self::assertSame(60 * 900_000 + 200 * 100_000, $bytes);
        self::assertLessThan(16 << 20, $sidecar->call('peak')[0][0]);
    }

    public function testACallerWhoReportsWhatItTakesIsSentNoMoreThanAWindow(): void
    {
        $sidecar = new Supervisor();
        $data = ['service' => 'demo', 'method' => 'blocks', 'arguments' => [100, 10_000], 'window' => true];
        $uuid = $sidecar->begin(['cmd' => 'call', 'data' => $data]);
        $count = 0;
        self::assertSame(['cmd' => 'stream-window', 'uuid' => $uuid], $sidecar->receive('stream-window'));
        while ($count < 27) {
            $sidecar->receive('data');
            $count++;
        }
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]), 'it rests, and others do not');
        self::assertFalse($sidecar->has('data'));
        $sidecar->send(['cmd' => 'stream-taken', 'uuid' => $uuid, 'count' => 20]);
        while ($count < 47) {
            $sidecar->receive('data');
            $count++;
        }
        $sidecar->send(['cmd' => 'stream-taken', 'uuid' => $uuid, 'count' => PHP_INT_MAX]);
        while ($count < 74) {
            $sidecar->receive('data');
            $count++;
        }
        $sidecar->send(['cmd' => 'stream-taken', 'uuid' => $uuid, 'count' => 27]);
        self::assertCount(26, $sidecar->answer($uuid)[0]);
    }

    public function testWhatIsLoggedArrivesWithWhatCanBeSentOfIt(): void
    {
        $sidecar = new Supervisor();
        $sidecar->call('log', ['warning', 'low on {what}', ['what' => 'paper', 'left' => 3, 'bytes' => "\xff"]]);
        self::assertSame([
            'cmd' => 'worker-log', 'level' => 'warning', 'message' => 'low on {what}',
            'context' => ['what' => 'paper', 'left' => 3, 'bytes' => "\xff"],
        ], $sidecar->receive('worker-log'));
        $sidecar->call('logOdd');
        $odd = $sidecar->receive('worker-log');
        $exception = $odd['context']['exception'];
        self::assertSame(['DomainException', 'no'], [$exception['class'], $exception['message']]);
        self::assertStringContainsString('left out', $odd['context']['closure']);
        self::assertStringContainsString('left out', $odd['context']['large']);
        self::assertSame(7, $odd['context']['after']);
        self::assertLessThan(20_000, strlen($odd['message']));
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
    }

    public function testItInheritsSocketsThatItServes(): void
    {
        $listeners = [stream_socket_server('tcp://127.0.0.1:0'), stream_socket_server('tcp://127.0.0.1:0')];
        $addresses = array_map(static fn ($listener) => stream_socket_get_name($listener, false), $listeners);
        $sidecar = new Supervisor(['LISTEN_FDNAMES' => '8080:web.sock'], $listeners);
        $ask = static function (string $address, string $line): string {
            $client = stream_socket_client("tcp://$address", timeout: 10);
            fwrite($client, "$line\n");
            return (string) stream_get_contents($client);
        };
        self::assertSame("8080 {$sidecar->worker->id} one\n", $ask($addresses[0], 'one'));
        self::assertSame('', $ask($addresses[1], 'fail'));
        $failed = $sidecar->receive('worker-log');
        self::assertSame('no connection', $failed['context']['exception']['message']);
        self::assertSame("web.sock {$sidecar->worker->id} two\n", $ask($addresses[1], 'two'));
        self::assertSame([[3], null], $sidecar->call('add', [1, 2]));
    }

    public function testSocketsThatAreForAnotherProcessAreLeftAlone(): void
    {
        $listener = stream_socket_server('tcp://127.0.0.1:0');
        $sidecar = new Supervisor(['LISTEN_PID' => '1', 'LISTEN_FDNAMES' => 'web'], [$listener]);
        self::assertSame([[[]], null], $sidecar->call('listeners'));
        $unnamed = new Supervisor([], [$listener, $listener]);
        self::assertSame([[['fd3', 'fd4']], null], $unnamed->call('listeners'));
        $missing = new Supervisor(['LISTEN_FDS' => '3'], [$listener], isAccepted: false);
        self::assertSame(255, $missing->worker->await());
        self::assertStringContainsString('LISTEN_FDS', $missing->worker->output());
    }

    public function testARunWithinARunIsRefused(): void
    {
        $error = (new Supervisor())->call('again')[1]['data'];
        self::assertSame(['LogicException', 'the worker runs already'], [$error['class'], $error['message']]);
    }

    /** @dataProvider interfaces */
    public function testItsLoggerIsOneOfPsr(string $of): void
    {
        $code = 'require $argv[1]; eval($argv[2]);'
            . '$log = Roster\Worker::connect("unix:///nowhere", token: "x")->log();'
            . '$log->warning("{a} of {b}", ["a" => 1, "c" => "ü"]); echo get_debug_type($log), " ";'
            . 'echo json_encode($log instanceof Psr\Log\LoggerInterface);';
        $command = [PHP_BINARY, '-r', $code, dirname(__DIR__) . '/autoload.php', $of];
        $folder = new Folder();
        $process = new Process($command, "$folder->path/log");
        self::assertSame(0, $process->await());
        self::assertStringContainsString('warning: 1 of {b} {"c":"ü"}', $process->output());
        self::assertStringEndsWith('Roster\Worker\Logger ' . ($of === '' ? 'false' : 'true'), $process->output());
    }

    public static function interfaces(): array
    {
        $interface = static function (string $message, string $end): string {
            $methods = '';
            foreach (['emergency', 'alert', 'critical', 'error', 'warning', 'notice', 'info', 'debug'] as $level) {
                $methods .= "public function $level($message, array \$context = [])$end;";
            }
            $log = "public function log(\$level, $message, array \$context = [])$end;";
            return "namespace Psr\\Log; interface LoggerInterface { $methods $log }";
        };
        return [
            'none' => [''],
            'version 1' => [$interface('$message', '')],
            'version 2' => [$interface('string|\Stringable $message', '')],
            'version 3' => [$interface('string|\Stringable $message', ': void')],
        ];
    }

    /** A worker that performs jobs of `q` by this code. */
    private static function performer(string $code): Supervisor
    {
        $code = 'require $argv[1]; ini_set("memory_limit", "128M"); $worker = Roster\Worker::fromEnvironment();'
            . "\$worker->perform('q', function (\$job) use (\$worker) { $code }); \$worker->ready(); \$worker->run();";
        $sidecar = new Supervisor(command: [PHP_BINARY, '-r', $code, dirname(__DIR__) . '/autoload.php']);
        $sidecar->receive('worker-ready');
        return $sidecar;
    }
}
