<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoInstance;
use Roster\Exception\Unavailable;
use Roster\Freshness;
use Roster\Origin;
use Roster\Resolved;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\SharedFile;
use Roster\Thrift;
use Roster\Transport;
use Roster\Wire\Reporter;
use Thrift\Protocol\TBinaryProtocol;
use Thrift\Transport\TMemoryBuffer;

/** What calls came to is told at the end of a page, and costs it nothing; and several instances are resolved at once. */
final class ReportTest extends TestCase
{
    private Folder $folder;
    /** @var resource */
    private $listener;

    protected function setUp(): void
    {
        $this->folder = new Folder();
        $this->listener = stream_socket_server("unix://{$this->folder->path}/roster.sock");
    }

    public function testReportsAreOneMessageAsThriftWritesIt(): void
    {
        $reporter = $this->reporter();
        $reporter->add('db', '[::1]:80', false, 1_234);
        $reporter->add('größe', 'm1', true, null);
        $reporter->add('db', '10.0.0.5:80', false, PHP_INT_MAX);
        $reporter->send();
        $reporter->send();
        [$name, $type, $reports] = $this->received()[0];
        self::assertSame(['report', 4], [$name, $type], 'oneway');
        self::assertSame(
            [['db', '[::1]:80', false, 1_234], ['größe', 'm1', true, null], ['db', '10.0.0.5:80', false, 0x7fffffff]],
            $reports,
        );
        self::assertSame([], $this->received(), 'what was sent is not sent again');
    }

    public function testWhatIsTooMuchForAMessageIsSentInSeveralAndWhatIsNoTextIsLeftOut(): void
    {
        $reporter = $this->reporter();
        foreach (["\xff", str_repeat('x', 40_000)] as $strange) {
            $reporter->add('db', $strange, false, null);
            $reporter->add($strange, 'a:1', false, null);
        }
        for ($number = 0; $number < 300; $number++) {
            $reporter->add('db', "a:$number", false, $number);
        }
        for ($number = 0; $number < 3; $number++) {
            $reporter->add('long', str_repeat('x', 15_000), false, $number);
        }
        $reporter->send();
        $sizes = array_map(static fn (array $message) => count($message[2]), $this->received());
        self::assertSame([256, 46, 1], $sizes);
    }

    public function testAPageIsNeitherHeldUpNorBrokenBySidecarsThatAreNotThereOrHang(): void
    {
        set_error_handler(static fn (int $level, string $message) => throw new \ErrorException($message));
        try {
            $began = microtime(true);
            // Nobody accepts here: the kernel takes as many connections as it has places, and refuses the rest at once.
            for ($number = 0; $number < 600; $number++) {
                $reporter = $this->reporter();
                $reporter->add('db', 'a:1', false, null);
                $reporter->send();
            }
            foreach (['/nonexistent/socket', __FILE__, __DIR__] as $nothing) {
                $reporter = new Reporter([$nothing], null);
                $reporter->add('db', 'a:1', false, null);
                $reporter->send();
            }
            (new Reporter([], null))->send();
            self::assertLessThan(20, microtime(true) - $began);
        } finally {
            restore_error_handler();
        }
    }

    public function testTheEndOfAPageSendsWhatItReportedAlsoWhereTheClientIsGone(): void
    {
        $code = 'require $argv[1]; $roster = Roster\Client::local($argv[2]); $fresh = '
            . 'new Roster\Freshness(1, 0, Roster\Origin::Live, true, Roster\Transport::Shared);'
            . '$roster->report(new Roster\Resolved("::1", 80, "", null, $fresh, serviceName: "db"), ok: false, durationMs: 5); '
            . '$roster->report(new Roster\Resolved(null, null, "", "m1", $fresh, serviceName: "mail"), ok: true); unset($roster);'
            . 'function end_of_page(): never { throw new Exception("as the test wants"); } end_of_page();';
        $arguments = [__DIR__ . '/../autoload.php', "{$this->folder->path}/roster.sock"];
        $process = new Process([PHP_BINARY, '-r', $code, ...$arguments], "{$this->folder->path}/log");
        $sent = $this->received(20);
        unset($process);
        self::assertSame([['db', '[::1]:80', false, 5], ['mail', 'm1', true, null]], $sent[0][2] ?? null);
    }

    public function testAProcessWithAClientForEachJobHasOneReporterForThem(): void
    {
        $fresh = new Freshness(1, 0, Origin::Live, true, Transport::Shared);
        $one = new Resolved('::1', 80, '', null, $fresh, serviceName: 'db');
        $report = fn () => Client::local("{$this->folder->path}/roster.sock", '', '')->report($one, ok: true);
        $report();
        $before = memory_get_usage();
        for ($times = 0; $times < 999; $times++) {
            $report();
        }
        self::assertLessThan(100_000, memory_get_usage() - $before);
        $sizes = array_map(static fn (array $message) => count($message[2]), $this->received());
        self::assertGreaterThan(1_000 - 256, array_sum($sizes), 'it is sent while the process goes on');
        self::assertLessThan(30, count($sizes), 'and together');
    }

    /** @requires extension dba */
    public function testSeveralAreResolvedByTheSharedFileAtOneRevision(): void
    {
        $file = new SharedFile([], ['supplies' => ['instances']]);
        foreach (['db' => 'a', 'web' => 'b'] as $service => $host) {
            $file->write([
                "pick/$service" => json_encode(['version' => '1.0.0', 'count' => 1, 'heaviest' => 1]),
                "lots/$service\0001.0.0\0000" => pack('JNN', 7, 1, 7),
                "instance/$service\0001.0.0\0000" => json_encode(['endpoints' => [['host' => $host, 'port' => 80]]]),
            ]);
        }
        $roster = Client::local('', '', $file->path);
        $found = $roster->resolveMany(['one' => 'web', 7 => ['service' => 'db', 'key' => 42], 'again' => ['service' => 'db']]);
        $address = static fn (Resolved $it) => [$it->serviceName, $it->address()];
        self::assertSame(
            ['one' => ['web', 'b:80'], 7 => ['db', 'a:80'], 'again' => ['db', 'a:80']],
            array_map($address, $found),
        );
        self::assertSame(5, $roster->freshness()->revision);
        self::assertSame([], $roster->resolveMany([]));
        $mistakes = [
            'requests[0]' => [['nothing' => 'db']],
            'requests[1]' => ['db', ['service' => 'db', 'color' => 'red']],
            'requests[b].service' => ['a' => 'db', 'b' => ['service' => '']],
            'requests[b].metadata' => ['b' => ['service' => 'db', 'metadata' => ['zone' => null]]],
            'requests' => array_fill(0, 65, 'db'),
        ];
        foreach ($mistakes as $field => $wrong) {
            try {
                $roster->resolveMany($wrong);
                self::fail('it is refused');
            } catch (InvalidRequest $mistake) {
                self::assertSame($field, $mistake->field);
                self::assertStringStartsWith("$field: ", $mistake->getMessage());
                self::assertStringNotContainsString(': service', $mistake->getMessage());
            }
        }
        // Only the sidecar chooses by a zone, and there is none.
        $found = $roster->resolveMany(['db', ['service' => 'web', 'zone' => 'a']]);
        self::assertInstanceOf(NoInstance::class, $found[1]);
        self::assertSame('a:80', $found[0]->address());
        $this->expectException(Unavailable::class);
        $roster->resolveMany([['service' => 'web', 'zone' => 'a']]);
    }

    public function testWhatTheSidecarResolvesIsToldInItsPlaceOrWhyThereIsNone(): void
    {
        $instance = new Thrift\Instance([
            'outstanding' => 0, 'serviceName' => 'db', 'version' => '1.0.0', 'group' => '', 'zone' => '', 'weight' => 1,
            'metadata' => '{}', 'state' => Thrift\InstanceState::UP, 'provenance' => [],
            'endpoints' => [new Thrift\Endpoint(['name' => '', 'protocol' => '', 'host' => 'a', 'port' => 80])],
        ]);
        $reply = new Thrift\ResolveManyReply(['freshness' => Answer::freshness(9), 'outcomes' => [
            new Thrift\ResolveOutcome(['error' => 'none of `x`']),
            new Thrift\ResolveOutcome(['instance' => $instance]),
        ]]);
        $sidecar = new FakeSidecar([[Answer::of(new Thrift\Roster_resolveMany_result(['success' => $reply]))]]);
        $roster = Patient::local($sidecar->address, '', '');
        $found = $roster->resolveMany(['none' => ['service' => 'x', 'zone' => 'a'], 'one' => 'db']);
        self::assertInstanceOf(NoInstance::class, $found['none']);
        self::assertSame(['x', 'none of `x`'], [$found['none']->service, $found['none']->getMessage()]);
        self::assertSame(['a:80', 'db', 9], [
            $found['one']->address(), $found['one']->serviceName, $roster->freshness()->revision,
        ]);
    }

    private function reporter(): Reporter
    {
        return new Reporter(["{$this->folder->path}/roster.sock"], null);
    }

    /**
     * What came: of each message its name and type, and the reports.
     *
     * @return list<array{string, int, list<array>}>
     */
    private function received(float $patience = 0.0): array
    {
        $messages = [];
        while ($stream = @stream_socket_accept($this->listener, $messages === [] ? $patience : 0.0)) {
            $framed = stream_get_contents($stream);
            self::assertSame(strlen($framed) - 4, unpack('N', $framed)[1]);
            $protocol = new TBinaryProtocol(new TMemoryBuffer(substr($framed, 4)));
            $protocol->readMessageBegin($name, $type, $number);
            $arguments = new Thrift\Roster_report_args();
            $arguments->read($protocol);
            $report = static fn (Thrift\CallReport $it) => [$it->serviceName, $it->address, $it->ok, $it->durationMs];
            $messages[] = [$name, $type, array_map($report, $arguments->request->reports)];
        }
        return $messages;
    }
}
