<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Endpoint;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NotReady;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\InstanceState;
use Roster\Provenance;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\SharedFile;
use Roster\Tests\Support\Skip;
use Roster\Thrift;
use Roster\Timeouts;
use Roster\Transport;

/** The transports are tried in their order, and each failure can be seen. */
final class TransportsTest extends TestCase
{
    public function testTheFileGoesFirstThenTheSocketThenTheFileAsItWasLeftAndLastThePort(): void
    {
        $unix = new FakeSidecar([[Answer::nodes(['/a' => 'of the socket'])]]);
        $tcp = new FakeSidecar([[Answer::nodes(['/a' => 'of the port'])]], isTcp: true);
        // For some seconds the one is not yet old.
        [$left, $file] = [new SharedFile(['/a' => 'left'], silenceMs: 10_000), new SharedFile(['/a' => 'of the file'])];
        $roster = Patient::local($unix->address, $tcp->address, $file->path);
        self::assertSame(['of the file', Transport::Shared], self::told($roster));
        $roster = Patient::local($unix->address, $tcp->address, $left->path);
        self::assertSame(['of the socket', Transport::Unix], self::told($roster));
        $unix->end();
        self::assertSame(['left', Transport::Shared], self::told($roster));
        unlink($left->path);
        $roster = Patient::local($unix->address, $tcp->address, $left->path);
        self::assertSame(['of the port', Transport::Tcp], self::told($roster));
        $tcp->end();
        $this->expectException(Unavailable::class);
        self::told($roster);
    }

    public function testWhoeverAnswersOverTcpIsAskedBeforeAFileThatIsTooOldAlone(): void
    {
        $left = new SharedFile(['/a' => 'left'], silenceMs: 10_000);
        $tcp = new FakeSidecar([[Answer::nodes(['/a' => 'of the port'])]], isTcp: true);
        $roster = Patient::local('/nonexistent/socket', $tcp->address, $left->path);
        self::assertSame('left', $roster->get('/a')->data);
        self::assertSame('of the port', $roster->get('/a', maxAge: 5_000)->data);
        $transports = array_column(Client::local('/nonexistent/socket', shared: $left->path)->explain(), 'transport');
        self::assertSame([Transport::Shared, Transport::Unix, Transport::Shared], $transports);
    }

    public function testASocketMayBeNamedAsTheCommandLineNamesIt(): void
    {
        $unix = new FakeSidecar([[Answer::nodes(['/a' => 'of the socket'])]]);
        $roster = Patient::local("unix://$unix->address");
        self::assertSame('of the socket', $roster->get('/a')->data);
        self::assertSame("unix://$unix->address: answered", (string) $roster->explain()[1]);
        self::assertSame(dirname($unix->address) . '/shared.mdb', $roster->explain()[0]->target);
    }

    /** @dataProvider noSockets */
    public function testWhatIsNoSocketIsRefused(string $socket): void
    {
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('an address goes to `tcp:`');
        Client::local(socket: $socket);
    }

    public static function noSockets(): array
    {
        return [['127.0.0.1:9090'], ['roster.sock'], ['unix://roster.sock']];
    }

    public function testExplainTellsWhatEachTransportCameTo(): void
    {
        $tcp = new FakeSidecar([[Answer::nodes([])]], isTcp: true);
        $roster = Patient::local('/nonexistent/socket', $tcp->address, '/nonexistent/file');
        self::assertSame([null, null, null, null], array_column($roster->explain(), 'answered'));
        $roster->get('/a');
        [$file, $unix, , $port] = $roster->explain();
        self::assertSame([false, false, false, true], array_column($roster->explain(), 'answered'));
        self::assertSame([Transport::Shared, Transport::Unix, Transport::Shared, Transport::Tcp], array_column($roster->explain(), 'transport'));
        self::assertSame('it is not there: does a sidecar run, and is this its `[shared] path`?', $file->failure);
        self::assertSame('cannot connect: [2] No such file or directory', $unix->failure);
        self::assertSame("unix:///nonexistent/socket: $unix->failure", (string) $unix);
        self::assertSame("tcp://$tcp->address: answered", (string) $port);
    }

    public function testExplainTriesEachTransportWhenToldTo(): void
    {
        $tcp = new FakeSidecar([[Answer::nodes([])]], isTcp: true);
        $roster = Patient::local('/nonexistent/socket', $tcp->address, '');
        self::assertSame([false, true], array_column($roster->explain(try: true), 'answered'));
    }

    public function testWithoutThriftsLibraryTheFileAnswersAndTheOtherWaysSayWhatIsMissing(): void
    {
        $file = new SharedFile(['/a' => 'of the file'], silenceMs: 10_000);
        $code = <<<'PHP'
            spl_autoload_register(static function (string $class): void {
                $file = strtr($class, ['Roster\\Thrift\\' => 'gen/', 'Roster\\' => 'src/', '\\' => '/']);
                is_file("$file.php") && require "$file.php";
            });
            $roster = Roster\Client::local('/nonexistent/socket', '', $argv[1]);
            echo $roster->get('/a')->data, "\n", $roster->explain()[1], "\n";
            foreach ([fn () => $roster->masters(), fn () => $roster->callMany([new Roster\Call('a', 'b')]),
                fn () => $roster->enqueue('q', 'n'), fn () => $roster->job(7), fn () => $roster->commandWorkers('ping')] as $ask) {
                try {
                    $ask();
                } catch (Roster\Exception\Unavailable $failure) {
                    echo $failure->attempts[0], "\n";
                }
            }
            PHP;
        $command = 'cd ' . escapeshellarg(dirname(__DIR__)) . ' && ' . PHP_BINARY;
        exec("$command -r " . escapeshellarg($code) . ' ' . escapeshellarg($file->path) . ' 2>&1', $told);
        $missing = 'unix:///nonexistent/socket: Thrift\'s PHP library is not there'
            . ' (Debian: php-thrift; Composer: apache/thrift)';
        self::assertSame(['of the file', ...array_fill(0, 6, $missing)], $told);
    }

    public function testALibraryThatOpenBasedirLeavesOutIsNotThere(): void
    {
        $code = 'set_error_handler(static fn (int $level, string $message) => throw new ErrorException($message));'
            . ' require $argv[1]; foreach (["/nonexistent/socket", null] as $socket) {'
            . ' try { Roster\Client::local($socket)->status(); }'
            . ' catch (Roster\Exception\Unavailable $failure) { echo $failure->getMessage(), "\n"; } }';
        $root = dirname(__DIR__);
        $command = PHP_BINARY . ' -d open_basedir=' . escapeshellarg($root) . ' -r ' . escapeshellarg($code);
        exec("$command " . escapeshellarg("$root/autoload.php") . ' 2>&1', $told);
        self::assertStringContainsString('/nonexistent/socket: Thrift\'s PHP library is not there', $told[0]);
        self::assertMatchesRegularExpression('/Roster cannot be reached: .*(library is not there|not tried)/', $told[1]);
    }

    public function testAnAddressIsThatOfAHostAndAPort(): void
    {
        $wrongs = ['127.0.0.1', '9090', ':9090', 'tcp://', 'http://127.0.0.1:9090/', 'localhost:'];
        $wrongs = [...$wrongs, '::1:9090', '127.0.0.1 :9090'];
        foreach ($wrongs as $wrong) {
            try {
                Client::local('', $wrong, '');
                $wrong === 'tcp://' || self::fail("$wrong was taken");
            } catch (InvalidRequest $refusal) {
                self::assertSame("tcp: `$wrong` is no host and port, such as `127.0.0.1:9090`", $refusal->getMessage());
            }
        }
        foreach (['tcp://%s', "%s\n", ' %s', '%s/x', 'tcp://%s/'] as $spelling) {
            $fake = new FakeSidecar([[Answer::nodes(['/a' => 'x'])]], isTcp: true);
            self::assertSame('x', Patient::local('', sprintf($spelling, $fake->address), '')->get('/a')->data);
        }
        Client::local('', '[fe80::1%eth0]:9090', '');
    }

    public function testWhatIsWrongWithAPathIsSaidInShort(): void
    {
        $long = str_repeat('x', 1 << 20);
        $mistakes = [
            '' => 'is not absolute: it does not begin with a slash', 'a/b' => 'is not absolute: it does not begin with a slash',
            '/a/' => 'ends in a slash', '/a//b' => 'has an empty part', '/a/../b' => 'has a part `.` or `..`',
            "/a\n" => 'has a control character', "/\xff" => 'is no UTF-8', '/.' => 'has a part `.` or `..`', $long => 'is not absolute',
        ];
        foreach ($mistakes as $path => $why) {
            try {
                Client::local('', '', '')->get($path);
                self::fail("$path was taken");
            } catch (InvalidRequest $refusal) {
                self::assertStringContainsString("` $why", $refusal->getMessage());
                self::assertLessThan(300, strlen($refusal->getMessage()));
            }
        }
    }

    public function testWithoutPosixItIsSaidThatTheUsersFoldersAreNotTried(): void
    {
        if (is_dir('/run/roster')) {
            Skip::because('a sidecar is installed here');
        }
        $code = 'require $argv[1]; try { Roster\Client::local()->get("/a"); }'
            . ' catch (Roster\Exception\Unavailable $failure) { echo array_slice($failure->attempts, -1)[0]; }';
        $command = PHP_BINARY . ' -d disable_functions=posix_geteuid -r ' . escapeshellarg($code);
        exec("$command " . escapeshellarg(dirname(__DIR__) . '/autoload.php') . ' 2>&1', $told);
        $why = 'not tried: without PHP\'s extension posix nobody knows which folders are own';
        self::assertSame(["unix:///tmp/roster-UID/roster.sock: $why"], $told);
    }

    public function testWithoutAnyWayNothingIsSaidToBeConfigured(): void
    {
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage('no transport to it is configured');
        Client::local('', '', '')->get('/a');
    }

    public function testAWayThatIsTooOldGivesWayToTheNext(): void
    {
        $file = new SharedFile(['/a' => 'of the file'], ['ageMs' => 7_000]);
        $unix = new FakeSidecar([[Answer::nodes(['/a' => 'of the socket']), Answer::of(self::tooStale(6_000))]]);
        $roster = Patient::local($unix->address, '', $file->path, maxAge: 5_000);
        self::assertSame(['of the socket', Transport::Unix], self::told($roster));
        try {
            $roster->get('/a');
            self::fail('it answered');
        } catch (TooStale $refusal) {
            self::assertSame([6_000, 5_000], [$refusal->ageMs, $refusal->maxAgeMs]);
            self::assertStringContainsString("$file->path: 7000 ms old, allowed are 5000 ms", $refusal->getMessage());
            self::assertStringContainsString("$unix->address: 6000 ms old", $refusal->getMessage());
        }
        self::assertSame('of the file', $roster->get('/a', maxAge: 8_000)->data);
    }

    public function testASidecarThatHangsCostsOneTimeOutThenTheFileAnswers(): void
    {
        $file = new SharedFile(['/a' => 'of the file'], silenceMs: 10_000);
        $unix = new FakeSidecar([[]]);
        $unix->hang();
        $roster = Client::local($unix->address, '', $file->path, timeouts: new Timeouts(readMs: 1_000, totalMs: 1_000));
        $began = microtime(true);
        for ($read = 0; $read < 10; $read++) {
            self::assertSame(['of the file', Transport::Shared], self::told($roster));
        }
        self::assertLessThan(5, microtime(true) - $began);
        self::assertGreaterThanOrEqual(10_000, $roster->freshness()->ageMs);
    }

    public function testWhatIsMissingIsNullOrTheDefaultAndItsFreshnessIsKnown(): void
    {
        $what = ['kind' => Thrift\EntityKind::NODE, 'name' => '/a', 'message' => 'no'];
        $absence = new Thrift\NotFound($what + ['freshness' => Answer::freshness(9)]);
        $fake = new FakeSidecar([[
            Answer::nodes([]),
            Answer::nodes([]),
            Answer::of(new Thrift\Roster_children_result(['notFound' => $absence])),
            Answer::of(new Thrift\Roster_instances_result(['notFound' => $absence])),
        ]]);
        $roster = Patient::local($fake->address, '', '');
        self::assertNull($roster->get('/a'));
        self::assertSame('default', $roster->get('/a', 'default'));
        self::assertSame(5, $roster->freshness()->revision);
        self::assertNull($roster->children('/a'));
        self::assertSame(9, $roster->freshness()->revision);
        self::assertSame([], $roster->instances('mail'));
    }

    public function testWhatIsNotKnownIsNoAbsence(): void
    {
        $notReady = new Thrift\NotReady(['source' => 'zookeeper', 'message' => 'waiting for zookeeper: connecting']);
        $fake = new FakeSidecar([[Answer::of(new Thrift\Roster_getMany_result(['notReady' => $notReady]))]]);
        $this->expectException(NotReady::class);
        $this->expectExceptionMessage('waiting for zookeeper: connecting');
        Patient::local($fake->address, '', '')->get('/a', 'default');
    }

    /** @dataProvider wrongPaths */
    public function testAPathThatCannotBeIsRefusedWhateverTheWay(string $path): void
    {
        $this->expectException(InvalidRequest::class);
        Client::local('', '', '')->get($path);
    }

    public static function wrongPaths(): array
    {
        return array_map(
            static fn (string $path) => [$path],
            ['', 'a', '/a/', '//', '/a//b', '/.', '/a/../b', '/..', "/a\n", "/a\0", "/\xff", "/a\u{85}"],
        );
    }

    public function testAPathMayHoldDotsAndSpacesAndLetters(): void
    {
        $paths = ['/', '/a', '/.a', '/a/..b', '/a b', '/ü/日本', '/a.', '/...'];
        $fake = new FakeSidecar([[Answer::nodes([])]]);
        self::assertSame([], Patient::local($fake->address, '', '')->getMany($paths));
    }

    public function testTheLoggerIsToldOnceWhenAWayBeginsToFail(): void
    {
        $logger = new class () {
            public array $lines = [];

            public function warning(string $message, array $context): void
            {
                $this->lines[] = $context['target'];
            }
        };
        $tcp = new FakeSidecar([[Answer::nodes([]), Answer::nodes([])]], isTcp: true);
        $roster = Patient::local('/nonexistent/socket', $tcp->address, '', logger: $logger);
        $roster->get('/a');
        $roster->get('/a');
        self::assertSame(['unix:///nonexistent/socket'], $logger->lines);
    }

    public function testInstancesAndMastersArePlainValues(): void
    {
        $offer = new Thrift\Service(['name' => 'mail', 'version' => '1.2.0', 'metadata' => '{"zone":"a"}']);
        $instance = self::instance();
        $reply = new Thrift\InstancesReply(['instances' => [$instance], 'freshness' => Answer::freshness()]);
        $page = static function (string $id, ?string $cursor) use ($offer): array {
            $counts = ['connectedAt' => 9, 'routes' => 1, 'outstanding' => 2];
            $master = new Thrift\Master(
                $counts + ['id' => $id, 'peerAddress' => '10.0.0.1:5', 'services' => [$offer]],
            );
            $page = ['masters' => [$master], 'cursor' => $cursor, 'freshness' => Answer::freshness()];
            return Answer::of(new Thrift\Roster_masters_result(['success' => new Thrift\MastersReply($page)]));
        };
        $fake = new FakeSidecar([[
            Answer::of(new Thrift\Roster_instances_result(['success' => $reply])),
            $page('m1', 'next'),
            $page('m2', null),
        ]]);
        $roster = Patient::local($fake->address, '', '');
        [$found] = $roster->instances('mail');
        self::assertSame(['m1', 'mail', ['zone' => 'a'], 2, InstanceState::Unknown], [
            $found->masterId, $found->serviceName, $found->metadata, $found->outstanding, $found->state,
        ]);
        self::assertEquals([new Endpoint('', 'dubbo', '10.0.0.5', 20_880)], $found->endpoints);
        self::assertEquals([new Provenance('register', null, 'm1', 'tunnel', 7)], $found->provenance);
        $masters = $roster->masters();
        self::assertSame(['m1', 'm2'], array_column($masters, 'id'));
        self::assertSame(['1.2.0', '10.0.0.1:5'], [$masters[1]->services[0]->version, $masters[1]->peerAddress]);
    }

    /** As a newer sidecar may have it, in a state that this package does not know. */
    private static function instance(): Thrift\Instance
    {
        $endpoint = ['name' => '', 'protocol' => 'dubbo', 'host' => '10.0.0.5', 'port' => 20_880];
        $provenance = ['source' => 'register', 'masterId' => 'm1', 'decoder' => 'tunnel', 'sinceRevision' => 7];
        return new Thrift\Instance([
            'masterId' => 'm1', 'outstanding' => 2, 'serviceName' => 'mail', 'version' => '1.2.0', 'group' => '',
            'zone' => 'a', 'weight' => 100, 'metadata' => '{"zone":"a"}', 'state' => 99,
            'endpoints' => [new Thrift\Endpoint($endpoint)], 'provenance' => [new Thrift\Provenance($provenance)],
        ]);
    }

    private static function tooStale(int $ageMs): Thrift\Roster_getMany_result
    {
        $told = new Thrift\TooStale(['ageMs' => $ageMs, 'maxAgeMs' => 5_000, 'message' => 'zookeeper is down']);
        return new Thrift\Roster_getMany_result(['tooStale' => $told]);
    }

    /** @return array{string, Transport} */
    private static function told(Client $roster): array
    {
        $node = $roster->get('/a');
        return [$node->data, $node->freshness->from];
    }
}
