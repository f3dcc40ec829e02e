<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NotReady;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\Instance;
use Roster\InstanceState;
use Roster\Node;
use Roster\Origin;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\SharedFile;
use Roster\Tests\Support\WebServer;
use Roster\Transport;

/**
 * The shared file is read without a call, and says how old it is.
 *
 * @requires extension dba
 */
final class SharedFileTest extends TestCase
{
    private SharedFile $file;

    public function testANodeIsReadWithItsStatAndFreshness(): void
    {
        $node = $this->reading(['/a/b' => "bytes\0\xff"])->get('/a/b');
        self::assertSame(['/a/b', "bytes\0\xff"], [$node->path, $node->data]);
        self::assertSame([1, 8], [$node->stat->version, $node->stat->numChildren]);
        self::assertSame([5, 0], [$node->freshness->revision, $node->freshness->ageMs]);
        self::assertSame([Origin::Live, Transport::Shared], [$node->freshness->origin, $node->freshness->from]);
        self::assertTrue($node->freshness->complete);
    }

    public function testTheNewestStateIsReadOverAndOver(): void
    {
        $file = new SharedFile(['/a' => 'old']);
        $roster = self::client($file);
        self::assertSame('old', $roster->get('/a')->data);
        $file->set(['/a' => 'new']);
        self::assertSame('new', $roster->get('/a')->data);
        self::assertSame(6, $roster->freshness()->revision);
    }

    public function testWhatNodesRegisterIsReadByItsNumbersBesideMasters(): void
    {
        $instance = static fn (string $version, int $port, ?string $master = null): array => [
            'serviceName' => 'web', 'version' => $version, 'state' => $port === 3 ? 'DOWN' : 'UP', 'masterId' => $master,
            'endpoints' => $master === null ? [['host' => '10.0.0.5', 'port' => $port]] : [],
        ];
        $key = static fn (string ...$parts): string => 'instance/' . implode("\0", $parts);
        $file = new SharedFile([], ['supplies' => ['nodes', 'instances']]);
        $roster = self::client($file);
        self::assertSame([], $roster->instances('web'));
        $file->write([
            'instances/web' => '{"2.0.0":1,"1.0.0":3}',
            $key('web', '2.0.0', '0') => json_encode($instance('2.0.0', 1)),
            $key('web', '1.0.0', '0') => json_encode($instance('1.0.0', 2)),
            $key('web', '1.0.0', '2') => json_encode($instance('1.0.0', 3)),
        ]);
        $file->set([], ['supplies' => ['nodes', 'instances']]);
        $ports = static fn (): array => array_map(
            static fn (Instance $it) => $it->masterId ?? $it->endpoints[0]->port,
            $roster->instances('web'),
        );
        self::assertSame([1, 2, 3], $ports(), 'a master has the number 1, and is not known yet');
        self::assertSame(InstanceState::Down, $roster->instances('web')[2]->state);
        $file->write(['service/web' => json_encode([$instance('1.5.0', 0, 'm1'), $instance('1.0.0', 0, 'm2')])]);
        self::assertSame([1, 'm1', 'm2', 2, 3], $ports(), 'the newest version first');
    }

    public function testALongPathGoesByItsDigest(): void
    {
        [$long, $longest] = ['/' . str_repeat('x', 499), '/' . str_repeat('x', 500)];
        $nodes = $this->reading([$long => '500', $longest => '501'])->getMany([$long, $longest]);
        self::assertSame(['500', '501'], [$nodes[$long]->data, $nodes[$longest]->data]);
    }

    public function testWhatIsMissingIsNullOrTheDefault(): void
    {
        $roster = $this->reading(['/a' => '']);
        self::assertSame('', $roster->get('/a')->data);
        self::assertNull($roster->get('/b'));
        self::assertSame('default', $roster->get('/b', 'default'));
        self::assertSame(['/a'], array_keys($roster->getMany(['/a', '/b'])));
        self::assertNull($roster->children('/a'));
        self::assertSame(5, $roster->freshness()->revision);
    }

    public function testChildrenAreAListOfNames(): void
    {
        $file = new SharedFile(['/a' => '']);
        $file->write(['children/a' => '["b","ü"]', 'children/' => '["a"]', 'children/a/b' => '[]']);
        $roster = self::client($file);
        self::assertSame([['b', 'ü'], ['a'], []], array_map($roster->children(...), ['/a', '/', '/a/b']));
    }

    public function testManyNodesAreFoundUnderTheirPathsWhateverTheKeysOfThese(): void
    {
        $data = ['/a' => 'a', '/b' => 'b', '/c' => 'c'];
        $roster = $this->reading($data);
        foreach ([[2 => '/c', 0 => '/a', 1 => '/b'], [3 => '/a', 7 => '/b', 9 => '/c'], ['x' => '/a', 'y' => '/b', '/c']] as $paths) {
            $found = array_map(static fn (Node $node) => $node->data, $roster->getMany($paths));
            ksort($found);
            self::assertSame($data, $found);
        }
    }

    /** @dataProvider damages */
    public function testADamagedEntryIsLeftToTheSidecar(array $entries, \Closure $ask): void
    {
        $source = ['supplies' => ['nodes', 'instances']];
        $file = new SharedFile(['/a' => 'a'], $source);
        $sound = '{"serviceName":"web","version":"1.0.0","state":"UP","endpoints":[{"host":"h","port":1}]}';
        $file->write($entries + ["instance/web\0001.0.0\0000" => $sound]);
        $file->set([], $source);
        $warnings = [];
        set_error_handler(static function (int $level, string $message) use (&$warnings): bool {
            return (bool) $warnings[] = $message;
        });
        try {
            $ask(self::client($file));
            self::fail('it answered');
        } catch (Unavailable $failure) {
            self::assertMatchesRegularExpression('/an entry (of the \w+ \w+ )?is damaged|no transport to it is configured/', $failure->getMessage());
        } finally {
            restore_error_handler();
        }
        self::assertSame([], $warnings);
    }

    public static function damages(): array
    {
        $instances = static fn (Client $roster) => $roster->instances('web');
        $resolve = static fn (Client $roster) => $roster->resolve('web', key: 'k');
        $random = static fn (Client $roster) => $roster->resolve('web');
        $pick = '{"version":"1.0.0","count":1,"heaviest":1}';
        $instance = "instance/web\0001.0.0\0000";
        $lots = ["lots/web\0001.0.0\0000" => str_repeat("\0", 7) . "\1\0\0\0\1\0\0\0\1"];
        return [
            'counts that make up for each other' => [['instances/web' => '{"1.0.0":2000000,"1.0.1":-2000000}'], $instances],
            'a count that is a text' => [['instances/web' => '{"1.0.0":"x"}'], $instances],
            'counts that are a number' => [['instances/web' => '7'], $instances],
            'a record without a version' => [['instances/web' => '{"1.0.0":1}', $instance => '{"serviceName":"web"}'], $instances],
            'a record that is a number' => [['service/web' => '[7]'], $instances],
            'an endpoint without a port' => [
                ['instances/web' => '{"1.0.0":1}', $instance => '{"serviceName":"web","version":"1","state":"UP","endpoints":[{"host":"h"}]}'],
                $instances,
            ],
            'a choice without a count' => [['pick/web' => '{"version":"1.0.0"}'], $resolve],
            'a choice of none' => [['pick/web' => '{"version":"1.0.0","count":0,"heaviest":1}'], $random],
            'what is chosen is a number' => [['pick/web' => $pick, $instance => '7'] + $lots, $resolve],
            'what is chosen has no port' => [['pick/web' => $pick, $instance => '{"endpoints":[{"host":"h"}]}'] + $lots, $random],
            'what is chosen has no endpoints' => [['pick/web' => $pick, $instance => '{"endpoints":7}'] + $lots, $random],
            'a master without an address' => [['master/m' => '{"id":"m"}'], static fn (Client $roster) => $roster->master('m')],
        ];
    }

    public function testAStatIsReadAsFarAsItIsThere(): void
    {
        $file = new SharedFile(['/a' => 'a']);
        $file->write(['stat/a' => '{"version":3,"czxid":"x"}']);
        $stat = self::client($file)->get('/a')->stat;
        self::assertSame([3, 0, 0], [$stat->version, $stat->czxid, $stat->numChildren]);
    }

    public function testTheAgeOfASourceCounts(): void
    {
        $source = ['ageMs' => 7_000, 'origin' => 'RESTORED', 'skippedNodes' => 1];
        $roster = $this->reading(['/a' => 'x'], $source);
        $freshness = $roster->get('/a')->freshness;
        self::assertSame([7_000, Origin::Restored], [$freshness->ageMs, $freshness->origin]);
        self::assertFalse($freshness->complete);
        $this->expectException(TooStale::class);
        $roster->get('/a', maxAge: 6_999);
    }

    public function testAnAgeBelowNothingIsNoRequestWhateverWasReadBefore(): void
    {
        $file = new SharedFile(['/a' => 'x']);
        $roster = self::client($file);
        $reads = [
            static fn () => $roster->get('/a', maxAge: -1),
            static fn () => $roster->getMany(['/a'], maxAge: -1),
            static fn () => $roster->masters(maxAge: -1),
            static fn () => $roster->services(maxAge: -1),
            static fn () => Client::local('', '', $file->path, maxAge: -1),
        ];
        foreach ([1, 2] as $round) {
            foreach ($reads as $read) {
                try {
                    $read();
                    self::fail('it answered');
                } catch (InvalidRequest $refusal) {
                    self::assertSame('maxAge: -1 ms are less than none', $refusal->getMessage());
                }
            }
            self::assertSame('x', $roster->get('/a', maxAge: 0)->data);
        }
    }

    public function testASourceOfOtherPathsDoesNotCount(): void
    {
        $file = new SharedFile(['/a' => 'x'], ['roots' => ['/ab'], 'ageMs' => 7_000, 'whole' => false]);
        self::assertSame(0, self::client($file)->get('/a')->freshness->ageMs);
        $this->expectException(NotReady::class);
        self::client($file)->get('/ab');
    }

    public function testAWriterThatIsAwayMakesItOldButNotUnreadable(): void
    {
        $roster = $this->reading(['/a' => 'x'], ['ageMs' => 1_000], silenceMs: 60_000);
        self::assertEqualsWithDelta(61_000, $roster->get('/a')->freshness->ageMs, 1_000);
        self::assertStringContainsString('its writer has been away for', (string) $roster->explain()[0]);
        self::assertTrue($roster->explain()[1]->answered);
    }

    public function testAWriterThatGoesAwayBetweenTwoReadsIsNoticed(): void
    {
        $roster = $this->reading(['/a' => 'x'], silenceMs: 2_000);
        $age = static fn () => $roster->get('/a')->freshness->ageMs;
        $age();
        Process::until(static fn () => $age() > 3_000, 'the age is told', 30);
        self::assertSame('x', $roster->get('/a')->data);
    }

    public function testAWriterThatWritesInTheFutureIsAway(): void
    {
        $hour = 3_600_000;
        $roster = $this->reading(['/a' => 'x'], ['ageMs' => 1_000], silenceMs: -$hour);
        foreach ([1, 2] as $_) {
            self::assertEqualsWithDelta($hour + 1_000, $roster->get('/a')->freshness->ageMs, 10_000);
            self::assertStringContainsString('its writer has been away for', (string) $roster->explain()[0]);
        }
        // As where the clock is set back between two reads, of which the first has found all well.
        $file = new SharedFile(['/a' => 'x']);
        $roster = self::client($file);
        self::assertSame([0, 0], [$roster->get('/a')->freshness->ageMs, $roster->get('/a')->freshness->ageMs]);
        $file->set([], silenceMs: -$hour);
        self::assertEqualsWithDelta($hour, $roster->get('/a')->freshness->ageMs, 10_000);
    }

    public function testASourceThatWasNeverReadAsAWholeKnowsNothing(): void
    {
        $roster = $this->reading(['/a' => 'x'], ['whole' => false, 'ageMs' => null]);
        $this->expectException(NotReady::class);
        $this->expectExceptionMessageMatches(
            '~^not ready: the source zookeeper has never been in sync, says /.*shared\.mdb; `roster status` shows what~'
        );
        $roster->get('/a');
    }

    public function testAFileOfAnotherFormatIsNotRead(): void
    {
        foreach (['1', '3'] as $other) {
            $file = new SharedFile(['/a' => 'x']);
            $file->write(['meta/format' => $other]);
            try {
                self::client($file)->get('/a');
                self::fail('it was read');
            } catch (Unavailable $refused) {
                self::assertStringContainsString("its format is $other, not 2", $refused->getMessage());
            }
        }
    }

    public function testADamagedFileIsNotRead(): void
    {
        $file = new SharedFile([]);
        file_put_contents($file->path, random_bytes(65_536));
        $this->expectException(Unavailable::class);
        $this->expectExceptionMessage("$file->path: it is damaged, or no shared file of Roster: `roster shared check`");
        self::client($file)->get('/a');
    }

    public function testAFileOfWhichAllPlacesAreTakenSaysSo(): void
    {
        $file = new SharedFile(['/a' => 'x']);
        // LMDB's own number of places; each reader has its own until the pipe is closed.
        $code = 'for ($reader = 0; $reader < 126; $reader++) { if (pcntl_fork() === 0) {'
            . ' $d = dba_open($argv[1], "r", "lmdb"); dba_fetch("node/a", $d); echo "r"; fgets(STDIN); exit; } }'
            . 'fgets(STDIN);';
        $readers = proc_open([PHP_BINARY, '-r', $code, $file->path], [['pipe', 'r'], ['pipe', 'w']], $pipes);
        self::assertSame(str_repeat('r', 126), stream_get_contents($pipes[1], 126));
        try {
            self::client($file)->get('/a');
            self::fail('it was read');
        } catch (Unavailable $refused) {
            $why = "$file->path: as many processes have it open as may: raise `[shared] max_readers`";
            self::assertStringContainsString($why, $refused->getMessage());
        } finally {
            fclose($pipes[0]);
            proc_close($readers);
        }
    }

    public function testAFileThatWasReplacedIsOpenedAnew(): void
    {
        $file = new SharedFile(['/a' => 'old']);
        $roster = self::client($file);
        self::assertSame('old', $roster->get('/a')->data);
        $file->set([], silenceMs: 5_000);
        $file->replace(['/a' => 'new']);
        self::assertSame('new', $roster->get('/a')->data);
    }

    public function testAFileThatWasReplacedIsOpenedAnewByTheSameWorker(): void
    {
        $file = new SharedFile(['/a' => 'old']);
        $server = new WebServer(workers: 1);
        $page = static function () use ($file, $server): array {
            $questions = [['path' => '/a', 'socket' => '', 'shared' => $file->path]];
            $question = static function () use (&$questions): ?array {
                return array_pop($questions);
            };
            $answer = static function (array $asked, ?array $answer, string $body) use (&$told): void {
                self::assertNotNull($answer, $body);
                $told = [$answer['data'], $answer['worker']];
            };
            $server->browse(1, $question, $answer);
            return $told;
        };
        [$data, $worker] = $page();
        self::assertSame('old', $data);
        foreach (['new', 'newer'] as $data) {
            $file->set([], silenceMs: 5_000);
            $file->replace(['/a' => $data]);
            self::assertSame([[$data, $worker], [$data, $worker]], [$page(), $page()]);
        }
    }

    public function testAChildOfAForkReadsOnItsOwn(): void
    {
        $file = new SharedFile(['/a' => 'x']);
        $roster = self::client($file);
        $roster->get('/a');
        for ($round = 0; $round < 3; $round++) {
            $child = pcntl_fork();
            if ($child === 0) {
                $isRight = $roster->get('/a')->data === 'x';
                posix_kill(getmypid(), $isRight ? SIGTERM : SIGKILL);
            }
            pcntl_waitpid($child, $status);
            self::assertSame(SIGTERM, pcntl_wtermsig($status));
            self::assertSame('x', $roster->get('/a')->data);
        }
    }

    public function testManyNodesAreOfOneRevisionWhileAnotherProcessWrites(): void
    {
        $file = new SharedFile(['/a' => '10', '/b' => '10']);
        $code = <<<'PHP'
            $file = dba_open($argv[1], 'w', 'lmdb');
            for ($n = 11; ; $n++) {
                $freshness = ['revision' => $n] + json_decode(dba_fetch('meta/freshness', $file), true);
                dba_replace('node/a', (string) $n, $file);
                dba_replace('meta/freshness', json_encode($freshness), $file);
                dba_replace('node/b', (string) $n, $file);
                usleep(10_000);
            }
            PHP;
        // dba writes each entry on its own, so only the order of its writes can be kept: /b is never newer than /a.
        $writer = new Process([PHP_BINARY, '-r', $code, $file->path], dirname($file->path) . '/log');
        $roster = self::client($file);
        $isWritten = static fn () => $roster->get('/a') !== null && $roster->freshness()->revision > 10;
        Process::until($isWritten, 'another process writes');
        $between = array_map(static fn (int $n) => "/none/$n", range(1, 5_000));
        $last = 0;
        for ($until = microtime(true) + 1; microtime(true) < $until;) {
            $nodes = $roster->getMany(['/a', ...$between, '/b']);
            [$a, $b] = [(int) $nodes['/a']->data, (int) $nodes['/b']->data];
            self::assertContains($a - $b, [0, 1]);
            self::assertGreaterThanOrEqual($last, $roster->freshness()->revision);
            $last = $roster->freshness()->revision;
        }
    }

    private function reading(mixed ...$contents): Client
    {
        return self::client($this->file = new SharedFile(...$contents));
    }

    private static function client(SharedFile $file): Client
    {
        return Client::local('', '', $file->path);
    }
}
