<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoInstance;
use Roster\Exception\NotReady;
use Roster\Exception\TooStale;
use Roster\Exception\Unavailable;
use Roster\Freshness;
use Roster\Origin;
use Roster\Quiet;
use Roster\Read\Picks;
use Roster\Read\SharedFile as Reader;
use Roster\Read\WarmUp;
use Roster\Resolved;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\SharedFile;
use Roster\Transport;

/** One instance of a service is chosen as the sidecar would choose it: the vectors are those of its own tests. */
final class ResolveTest extends TestCase
{
    private const VECTORS = __DIR__ . '/../../tests/vectors/resolve.json';

    public function testHashesAndDrawsAreThoseOfTheSidecar(): void
    {
        $vectors = self::vectorsOf('hashes');
        self::assertGreaterThan(4, count($vectors));
        foreach ($vectors as ['text' => $text, 'hash' => $hash]) {
            self::assertSame($hash, Picks::hash($text));
        }
        foreach (self::vectorsOf('draws') as $vector) {
            $draw = Picks::draw(Picks::hash($vector['key']), Picks::hash($vector['address']));
            self::assertSame([$vector['draw'], $vector['distance']], [$draw, Picks::distance($draw)]);
        }
    }

    public function testTheDocumentedConnectionIsThatToTheAddress(): void
    {
        $page = file_get_contents(__DIR__ . '/../../docs/resolving.md');
        self::assertSame(2, preg_match_all('/\$socket = @?(\w+\(.*?\));/', $page, $lines));
        $freshness = new Freshness(1, 0, Origin::Live, true, Transport::Shared);
        foreach (['127.0.0.1', '[::1]'] as $host) {
            $server = @stream_socket_server("tcp://$host:0");
            if ($server === false) {
                continue;
            }
            $port = (int) substr(strrchr(stream_socket_get_name($server, false), ':'), 1);
            $db = $user = new Resolved(trim($host, '[]'), $port, '', null, $freshness);
            foreach ($lines[1] as $line) {
                self::assertIsResource(eval("return $line;"), "$line of $host, for " . $db->address() . $user->address());
            }
        }
    }

    /**
     * @dataProvider sets
     * @requires extension dba
     */
    public function testEachKeyGoesWhereTheSidecarSendsIt(array $instances, string $chunk, array $picks): void
    {
        $roster = Client::local('', '', self::file($instances, [base64_decode($chunk)])->path);
        foreach ($picks as $pick) {
            ['key' => $key, 'address' => $address] = $pick;
            $resolved = $roster->resolve('web', key: $key, exclude: $pick['exclude'] ?? []);
            self::assertSame([$address, 'http', null], [$resolved->address(), $resolved->protocol, $resolved->masterId], $key);
            self::assertSame(Transport::Shared, $resolved->freshness->from);
        }
        self::assertSame(5, $roster->freshness()->revision);
    }

    /**
     * @dataProvider sets
     * @requires extension dba
     */
    public function testEachIsDrawnAsOftenAsItsWeight(array $instances, string $chunk): void
    {
        $roster = Client::local('', '', self::file($instances, [base64_decode($chunk)])->path);
        $counts = array_fill_keys(array_column($instances, 'address'), 0);
        for ($time = 0; $time < 4_000; $time++) {
            $counts[$roster->resolve('web')->address()]++;
        }
        $weights = array_column($instances, 'weight', 'address');
        foreach ($weights as $address => $weight) {
            $share = $weight / array_sum($weights);
            // Six deviations: of a thousand million such tests two fail.
            $deviation = sqrt(4_000 * $share * (1 - $share));
            self::assertEqualsWithDelta(4_000 * $share, $counts[$address], 6 * $deviation + 1, $address);
        }
    }

    /** @requires extension dba */
    public function testWhatIsExcludedIsNeitherDrawnNorChosenByAKey(): void
    {
        // In both chunks, and two at one address.
        $instances = array_map(static fn (int $n) => ['address' => "10.0.0.$n:80", 'weight' => $n === 7 ? 9_000 : 1], range(0, 299));
        $instances[280]['address'] = '10.0.0.7:80';
        $chunks = array_map(self::chunk(...), array_chunk($instances, Picks::CHUNK));
        $roster = Client::local('', '', self::file($instances, $chunks)->path);
        $failed = $roster->resolve('web', key: 'k', exclude: []);
        self::assertSame('10.0.0.7:80', $failed->address());
        $others = array_map(static fn (int $n) => "10.0.0.$n:80", range(8, 70));
        $found = [];
        for ($key = 0; $key < 300; $key++) {
            $found[] = $roster->resolve('web', key: $key, exclude: [$failed, ...$others])->address();
            $found[] = $roster->resolveMany([['service' => 'web', 'exclude' => [$failed, ...$others]]])[0]->address();
        }
        self::assertSame([], array_intersect($found, ['10.0.0.7:80', ...$others]));
        self::assertSame(Transport::Shared, $roster->freshness()->from);
        self::assertNotEmpty(array_intersect($found, array_column(array_slice($instances, Picks::CHUNK), 'address')));
    }

    /** @requires extension dba */
    public function testWhereAllAreExcludedOrDownTheFileThatWasLeftSaysSo(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)], silenceMs: 60_000);
        $file->write(['instances/off' => '{"1.0.0":2}']);
        foreach ([0, 1] as $number) {
            $down = '{"serviceName":"off","version":"1.0.0","state":"DOWN"}';
            $file->write(["instance/off\0001.0.0\000$number" => $down]);
        }
        $all = ['service' => 'web', 'exclude' => ['a:1']];
        $found = Client::local('', '', $file->path)->resolveMany(['web', $all, 'off']);
        self::assertSame('a:1', $found[0]->address());
        self::assertStringContainsString('excluded by the request', $found[1]->getMessage());
        self::assertStringContainsString('of 2 in the shared file that it left 2 are DOWN', $found[2]->getMessage());
    }

    public function testAnInstanceThatWarmsUpWeighsAsMuchAsInTheSidecar(): void
    {
        $vectors = self::vectorsOf('warmUps');
        self::assertGreaterThan(9, count($vectors));
        foreach ($vectors as $vector) {
            $record = ['provenance' => [['decoder' => $vector['decoder']]]] + $vector;
            self::assertSame($vector['counts'], WarmUp::weight($record, $vector['now']), $vector['what']);
        }
    }

    /** @requires extension dba */
    public function testTheFileRefusesWhatTheSidecarWouldRefuse(): void
    {
        $instances = [['address' => 'h:1', 'weight' => 100]];
        $roster = Client::local('', '', self::file($instances, [self::chunk($instances)])->path);
        self::assertSame('h:1', $roster->resolve('web', key: str_repeat('x', 1_024))->address());
        $wrong = [
            'key: longer than 1024 bytes; give a hash of it' => ['service' => 'web', 'key' => str_repeat('x', 1_025)],
            'service: it is empty' => ['service' => ''],
            'exclude: more than 64 of them' => ['service' => 'web', 'exclude' => array_fill(0, 65, 'a:1')],
            'exclude: one is longer than 1024 bytes' => ['service' => 'web', 'exclude' => [str_repeat('x', 1_025)]],
        ];
        foreach ($wrong as $why => $request) {
            foreach ([fn () => $roster->resolve(...$request), fn () => $roster->resolveMany([$request])] as $resolve) {
                try {
                    $resolve();
                    self::fail($why);
                } catch (InvalidRequest $refused) {
                    self::assertStringContainsString($why, $refused->getMessage());
                }
            }
        }
    }

    /** @requires extension dba */
    public function testOneThatWarmsUpIsDrawnLessOftenAndKeepsItsKeys(): void
    {
        $of = static fn (string $timestamp) => [
            'weight' => 100,
            'metadata' => ['timestamp' => $timestamp, 'warmup' => '2147483647'],
            'provenance' => [['decoder' => 'dubbo']],
        ];
        $instances = [['address' => 'h:1'] + $of('1000'), ['address' => 'h:2'] + $of(time() . '000')];
        $roster = Client::local('', '', self::file($instances, [self::chunk($instances)])->path);
        $isFresh = static fn (?string $key) => $roster->resolve('web', key: $key)->address() === 'h:2';
        $drawn = count(array_filter(range(1, 4_000), static fn (int $key) => $isFresh(null)));
        self::assertEqualsWithDelta(4_000 / 101, $drawn, 6 * sqrt(4_000 / 101) + 1);
        $keyed = count(array_filter(range(1, 4_000), static fn (int $key) => $isFresh((string) $key)));
        self::assertEqualsWithDelta(2_000, $keyed, 6 * sqrt(1_000) + 1);
    }

    /** @requires extension dba */
    public function testWhereAllWarmUpOneIsFoundWithinFewDrawsAndTheWarmerMoreOften(): void
    {
        $of = static fn (int $age) => [
            'weight' => 10_000,
            'metadata' => ['timestamp' => (time() - $age) . '000', 'warmup' => '10000000'],
            'provenance' => [['decoder' => 'dubbo']],
        ];
        // One counts with 3 of 1,000, and one with 12.
        $instances = [['address' => 'h:1'] + $of(30), ['address' => 'h:2'] + $of(120)];
        $roster = Client::local('', '', self::file($instances, [self::chunk($instances)])->path);
        $drawn = 0;
        for ($time = 0; $time < 2_000; $time++) {
            $drawn += (int) ($roster->resolve('web')->address() === 'h:1');
        }
        self::assertEqualsWithDelta(400, $drawn, 6 * sqrt(2_000 * 0.2 * 0.8));
    }

    /** @return iterable<string, array{list<array>, string, list<array>}> */
    public static function sets(): iterable
    {
        foreach (self::vectorsOf('picks') as $vector) {
            yield $vector['what'] => [$vector['instances'], $vector['chunk'], $vector['picks']];
        }
    }

    /** @requires extension dba */
    public function testMoreThanOneChunkIsLookedThroughForTheBestOfAll(): void
    {
        foreach ([static fn () => 100, static fn (int $n) => $n % 4, static fn (int $n) => $n === 7 ? 20_000 : 1] as $weight) {
            $instances = array_map(static fn (int $n) => ['address' => "10.0.0.$n:80", 'weight' => $weight($n)], range(0, 299));
            $chunks = array_map(self::chunk(...), array_chunk($instances, Picks::CHUNK));
            $roster = Client::local('', '', self::file($instances, $chunks)->path);
            $found = [];
            for ($key = 0; $key < 300; $key++) {
                $scores = [];
                foreach ($instances as ['address' => $address, 'weight' => $weighs]) {
                    $scores[$address] = $weighs / Picks::distance(Picks::draw(Picks::hash((string) $key), Picks::hash($address)));
                }
                $found[] = $address = $roster->resolve('web', key: $key)->address();
                self::assertSame(array_search(max($scores), $scores, true), $address);
                $found[] = $roster->resolve('web')->address();
            }
            self::assertNotEmpty(array_intersect($found, array_column(array_slice($instances, Picks::CHUNK), 'address')));
        }
        self::assertSame([], Picks::best([self::chunk([['address' => 'a:1', 'weight' => 0]])], 7, 'k'));
    }

    /** Also where floats cannot tell them apart. */
    public function testOfTwoThatAreAlmostEquallyGoodTheSameIsBestAsByWholeNumbers(): void
    {
        $key = Picks::hash('k');
        for ($time = 0; $time < 4_000; $time++) {
            $hashes = [random_int(0, PHP_INT_MAX >> 1), random_int(0, PHP_INT_MAX >> 1)];
            $draws = array_map(static fn (int $hash) => Picks::draw($key, $hash), $hashes);
            // As the distances, so that both have as much weight for a bit of it; or almost.
            $weights = array_map(static fn (int $draw) => Picks::distance($draw) >> $time % 20, $draws);
            $weights[0] += random_int(-1, 1);
            if (min($weights) < 1) {
                continue;
            }
            $score = static fn (int $one) => [$weights[$one] * Picks::distance($draws[1 - $one]), $draws[$one]];
            $best = $score(0) > $score(1) ? 0 : 1;
            self::assertSame([$best], Picks::best([self::packed($hashes, $weights)], max($weights), 'k'), json_encode($hashes));
        }
    }

    /** @requires extension dba */
    public function testOfEqualOnesTheSmallerAddressIsChosenAndWhereAllButOneWeighNothingThatOne(): void
    {
        // One hash for two addresses, as if they had met.
        $same = [['address' => 'b:1', 'weight' => 7], ['address' => 'a:1', 'weight' => 7]];
        $chunk = self::packed([Picks::hash('x'), Picks::hash('x')], [7, 7]);
        self::assertSame('a:1', Client::local('', '', self::file($same, [$chunk])->path)->resolve('web', key: 'k')->address());
        $instances = array_map(static fn (int $n) => ['address' => "h$n:1", 'weight' => (int) ($n === 77)], range(0, 99));
        $roster = Client::local('', '', self::file($instances, [self::chunk($instances)])->path);
        for ($time = 0; $time < 50; $time++) {
            self::assertSame(['h77:1', 'h77:1'], [$roster->resolve('web')->address(), $roster->resolve('web', $time)->address()]);
        }
    }

    /** @requires extension dba */
    public function testWhatIsWithheldIsNotChosenButAgainOnceItsTimeIsOverWhereTheSidecarIsDead(): void
    {
        $hour = 3_600_000;
        foreach ([[100, 100], [100, 700]] as [$others, $weight]) {
            $instances = [
                ['address' => 'a:1', 'weight' => $others],
                ['address' => 'b:1', 'weight' => $weight],
                ['address' => 'c:1', 'weight' => $others],
            ];
            $written = array_replace_recursive($instances, [1 => ['weight' => 0]]);
            $now = (int) (microtime(true) * 1_000);
            $found = static function (int $since, int $endsAt, int $silenceMs) use ($instances, $written, $weight): array {
                $choice = ['heaviest' => max(array_column($instances, 'weight')), 'withheld' => ['1' => [$since, $endsAt, $weight]]];
                $roster = Client::local('', '', self::file($written, [self::chunk($written)], $silenceMs, $choice)->path);
                [$byKey, $byChance] = [[], []];
                for ($key = 0; $key < 100; $key++) {
                    $byKey[] = $roster->resolve('web', key: $key)->address();
                    $byChance[] = $roster->resolve('web')->address();
                }
                return [array_count_values($byKey), array_count_values($byChance)];
            };
            foreach ([...$found($now - $hour, $now + $hour, 0), ...$found($now - $hour, $now + $hour, 60_000)] as $withheld) {
                self::assertArrayNotHasKey('b:1', $withheld);
            }
            // Also where the clock was set back since, so that nothing is withheld for longer than it was to be.
            foreach ([[$now - $hour, $now - 1, 60_000], [$now + $hour, $now + 3 * $hour, -2 * $hour]] as [$since, $endsAt, $silenceMs]) {
                // While the sidecar writes, a step of the clock ends nothing.
                foreach ($found($since, $endsAt, 0) as $withheld) {
                    self::assertArrayNotHasKey('b:1', $withheld);
                }
                $expected = [];
                foreach (range(0, 99) as $key) {
                    $picked = Picks::best([self::chunk($instances)], max($others, $weight), (string) $key)[0];
                    $expected[] = $instances[$picked]['address'];
                }
                [$byKey, $byChance] = $found($since, $endsAt, $silenceMs);
                self::assertSame(array_count_values($expected), $byKey);
                self::assertArrayHasKey('b:1', $byChance);
            }
        }
    }

    /** @requires extension dba */
    public function testWhereAllAreWithheldOneIsChosenOnceItsTimeIsOverAndTheSidecarDead(): void
    {
        $now = (int) (microtime(true) * 1_000);
        [$long, $over] = [[$now - 60_000, $now + 60_000, 7], [$now - 60_000, $now - 1, 7]];
        $version = static fn (string $version, array $withheld, array $more = []) =>
            ['version' => $version, 'count' => 2, 'heaviest' => 7, 'withheld' => ['1' => $withheld]] + $more;
        $old = ['version' => '0.9.0', 'count' => 1, 'heaviest' => 5];
        $last = ['ejected' => [1]];
        $found = static function (array $choice, int $silenceMs): ?string {
            $instances = [['address' => 'a:1', 'weight' => 0], ['address' => 'b:1', 'weight' => 0]];
            $file = self::file($instances, [self::chunk($instances)], $silenceMs, $choice);
            $entry = static fn (string $host) => json_encode(['endpoints' => [['protocol' => '', 'host' => $host, 'port' => 1]]]);
            $file->write([
                "lots/web\0000.9.0\0000" => self::chunk([['address' => 'old:1', 'weight' => 5]]),
                "instance/web\0000.9.0\0000" => $entry('old'),
                "lots/web\0002.0.0\0000" => self::chunk([['address' => 'x:1', 'weight' => 0], ['address' => 'new:1', 'weight' => 0]]),
                "instance/web\0002.0.0\0001" => $entry('new'),
            ]);
            $found = [];
            foreach (['k', null] as $key) {
                try {
                    $found[] = Client::local('', '', $file->path)->resolve('web', key: $key)->host;
                } catch (Unavailable) {
                    $found[] = null;
                }
            }
            self::assertSame($found[0], $found[1]);
            return $found[0];
        };
        $dead = 60_000;
        self::assertSame('b', $found($version('1.0.0', $over), $dead));
        self::assertNull($found($version('1.0.0', $long), $dead));
        self::assertNull($found($version('1.0.0', $over), 0), 'while it lives, the sidecar says when that ends');
        // Of the newest version with one that is back.
        $newer = static fn (array ...$versions) => ['newer' => $versions];
        self::assertSame('old', $found($old + $newer($version('2.0.0', $long), $version('1.0.0', $long)), $dead));
        self::assertSame('b', $found($old + $newer($version('2.0.0', $long), $version('1.0.0', $over)), $dead));
        self::assertSame('new', $found($old + $newer($version('2.0.0', $over), $version('1.0.0', $over)), $dead));
        self::assertSame('old', $found($old + $newer($version('2.0.0', $over), $version('1.0.0', $over)), 0));
        // One that is only ejected, where there is no other.
        self::assertSame('b', $found($version('1.0.0', $long, $last), $dead));
        self::assertNull($found($version('1.0.0', $long, $last), 0));
        self::assertSame('new', $found($version('1.0.0', $long, $last) + $newer($version('2.0.0', $long, $last)), $dead));
        self::assertSame('b', $found($version('1.0.0', $over, $last) + $newer($version('2.0.0', $long, $last)), $dead));
    }

    /** @requires extension dba */
    public function testOfOneAddressTheSameIsChosenAsByTheSidecar(): void
    {
        foreach (self::vectorsOf('ties') as ['instances' => $instances, 'protocol' => $protocol]) {
            foreach ([$instances, array_reverse($instances)] as $ordered) {
                $file = self::file($ordered, [self::chunk($ordered)]);
                $found = Client::local('', '', $file->path)->resolve('web', key: 'k');
                self::assertSame($protocol, $found->protocol);
            }
        }
    }

    /** @requires extension dba */
    public function testWhatOneSourceSuppliesIsChosenWhileAnotherIsNotKnown(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)]);
        $file->set([], ['supplies' => ['instances'], 'whole' => false, 'ageMs' => null]);
        $roster = Client::local('', '', $file->path);
        self::assertSame('a:1', $roster->resolve('web', key: 'k')->address());
        self::assertFalse($roster->freshness()->complete);
        $this->expectException(NotReady::class);
        $roster->instances('other');
    }

    /** @requires extension dba */
    public function testAVersionOfAnotherServiceComesBeforeTheWholeName(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)], service: 'web@2');
        self::assertSame('a:1', Client::local('', '', $file->path)->resolve('web@2')->address());
        $file->write(['instances/web' => '{"2.0.0":1}']);
        $this->expectException(Unavailable::class);
        Client::local('', '', $file->path)->resolve('web@2');
    }

    /** @requires extension dba */
    public function testWhereNoSidecarAnswersTheFileAsItWasLeftDoes(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)], silenceMs: 60_000);
        self::assertGreaterThan(59_000, Client::local('', '', $file->path)->resolve('web')->freshness->ageMs);
        self::assertSame('a:1', Client::local('', '', $file->path)->resolve('web', maxAge: 120_000)->address());
        foreach (['resolve', 'instances'] as $question) {
            try {
                Client::local('', '', $file->path)->$question('web', maxAge: 1_000);
                self::fail("it is too old for $question");
            } catch (TooStale $old) {
                self::assertGreaterThan(59_000, $old->ageMs);
            }
        }
        // One that nobody knows keeps no other from its answer.
        $found = Client::local('', '', $file->path)->resolveMany(['other' => 'nosuch', 'one' => 'web']);
        self::assertSame('a:1', $found['one']->address());
        self::assertInstanceOf(NoInstance::class, $found['other']);
        self::assertSame('nosuch', $found['other']->service);
        $this->expectException(Unavailable::class);
        Client::local('', '', $file->path)->resolve('web', zone: 'a');
    }

    /** @requires extension dba */
    public function testWhatAFileAsItWasLeftCannotAnswerKeepsNothingElseFromItsAnswer(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)], silenceMs: 60_000);
        $file->set([], ['supplies' => ['instances'], 'whole' => false, 'ageMs' => null], 60_000);
        $file->write(['pick/damaged' => '{']);
        $roster = Client::local('', '', $file->path);
        $found = $roster->resolveMany(['nosuch', 'damaged', ['service' => 'web', 'zone' => 'a'], ['service' => 'web', 'key' => 7]]);
        self::assertSame('a:1', $found[3]->address());
        foreach (array_slice($found, 0, 3) as $number => $none) {
            self::assertInstanceOf(NoInstance::class, $none, (string) $number);
        }
        self::assertStringContainsString('has never been in sync', $found[0]->getMessage());
        $why = 'of web no instance is chosen: only a sidecar chooses by `zone`, and none answers';
        self::assertSame($why, $found[2]->getMessage());
        $one = ['service' => 'web', 'version' => '^1.0', 'subset' => 2];
        self::assertStringContainsString(' by `version`, `subset`, ', $roster->resolveMany(['web', $one])[1]->getMessage());
        $this->expectException(Unavailable::class);
        $roster->resolveMany(['nosuch', 'damaged']);
    }

    /** @requires extension dba */
    public function testOfSeveralFilesThatWereLeftTheOneThatAnswersMostIsRead(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $one = self::file($instances, [self::chunk($instances)], silenceMs: 60_000);
        $others = [['address' => 'b:1', 'weight' => 1]];
        $both = self::file($others, [self::chunk($others)], silenceMs: 60_000);
        $both->write(['pick/db' => json_encode(['version' => '1.0.0', 'count' => 1, 'heaviest' => 1])]);
        $both->write(["lots/db\0001.0.0\0000" => self::chunk($others)]);
        $both->write(["instance/db\0001.0.0\0000" => json_encode(['endpoints' => [['host' => 'b', 'port' => 2]]])]);
        $folder = new Folder();
        $sockets = [];
        foreach ([$one, $both] as $number => $file) {
            $sockets["$folder->path/$number.sock"] = $file->path;
        }
        $local = new \ReflectionMethod(Client::class, '__construct');
        $roster = (new \ReflectionClass(Client::class))->newInstanceWithoutConstructor();
        $local->invoke($roster, $sockets, true, '', null, null, false, null, null);
        $addresses = static fn (array $found) => array_map(static fn (object $it) => $it->address(), $found);
        self::assertSame(['b:1', 'b:2'], $addresses($roster->resolveMany(['web', 'db'])));
        self::assertSame(['a:1'], $addresses($roster->resolveMany(['web'])));
    }

    /** @requires extension dba */
    public function testASlotThatIsLostBetweenTwoLooksIsTakenAnew(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $file = self::file($instances, [self::chunk($instances)], silenceMs: 60_000);
        // Withheld until nobody knows when, of which PHP warns: after the look at this entry, and before that at the chunks.
        $file->write(['pick/web' => '{"version":"1.0.0","count":1,"heaviest":1,"withheld":[[]]}']);
        $lost = 0;
        $handler = new \ReflectionProperty(Quiet::class, 'handler');
        $handler->setValue(null, static function () use ($file, &$lost): bool {
            // As what looks for dead readers takes the slot of a process whose lock is gone.
            $at = $lost++ === 0 ? strpos(file_get_contents("$file->path-lock"), pack('l', getmypid())) : false;
            if ($at !== false) {
                $slots = fopen("$file->path-lock", 'r+');
                fseek($slots, $at);
                fwrite($slots, pack('l', 0));
            }
            return true;
        });
        try {
            self::assertSame('a:1', (new Reader($file->path, isLast: true))->resolve('web', 'k', null)->address());
        } finally {
            $handler->setValue(null, null);
        }
        self::assertGreaterThanOrEqual(6, $lost, 'it was looked at twice, each with three warnings');
    }

    /** @requires extension dba */
    public function testADamagedEntryIsNoAnswer(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        foreach (['', 'x', substr(self::chunk($instances), 0, 9)] as $damaged) {
            $roster = Client::local('', '', self::file($instances, [$damaged])->path);
            foreach (['k', null] as $key) {
                try {
                    $roster->resolve('web', key: $key);
                    self::fail('it answered');
                } catch (Unavailable) {
                    self::addToAssertionCount(1);
                }
            }
        }
    }

    /** @requires extension dba */
    public function testANumberTooLargeForPhpIsAStringAsOverThrift(): void
    {
        $file = new SharedFile([], ['supplies' => ['instances']]);
        $file->write(['service/web' => '[{"serviceName":"web","version":"1.0.0","state":"up","metadata":{"id":18446744073709551615,"zone":1}}]']);
        [$instance] = Client::local('', '', $file->path)->instances('web');
        self::assertSame(['id' => '18446744073709551615', 'zone' => 1], $instance->metadata);
    }

    /** @requires extension dba */
    public function testANumberInTheFileMakesNobodyLookForMoreThanThereCanBe(): void
    {
        $instances = [['address' => 'a:1', 'weight' => 1]];
        $roster = Client::local('', '', self::file($instances, [self::chunk($instances)], choice: ['count' => 1 << 40])->path);
        $this->expectException(Unavailable::class);
        $roster->resolve('web', key: 'k');
    }

    /** @requires extension dba */
    public function testANumberOfInstancesBeyondPhpsIntegersIsADamagedEntry(): void
    {
        $file = new SharedFile([], ['supplies' => ['instances']]);
        $file->write(['pick/web' => '{"version":"1.0.0","count":18446744073709551615,"heaviest":1}']);
        $roster = Client::local('', '', $file->path);
        $this->expectException(Unavailable::class);
        $roster->resolve('web', key: 'k');
    }

    /**
     * @param list<array{address: string, weight: int}> $instances
     * @param list<string> $chunks
     */
    private static function file(
        array $instances,
        array $chunks,
        int $silenceMs = 0,
        array $choice = [],
        string $service = 'web',
    ): SharedFile {
        static $file;
        $file = new SharedFile([], ['supplies' => ['instances']], $silenceMs);
        $heaviest = max(array_column($instances, 'weight'));
        $choice += ['version' => '1.0.0', 'count' => count($instances), 'heaviest' => $heaviest];
        $entries = ["pick/$service" => json_encode($choice)];
        foreach ($chunks as $number => $chunk) {
            $entries["lots/$service\0001.0.0\0$number"] = $chunk;
        }
        foreach ($instances as $number => $it) {
            $address = $it['address'];
            $colon = strrpos($address, ':');
            $host = trim(substr($address, 0, $colon), '[]');
            $endpoint = ['protocol' => $it['protocol'] ?? 'http', 'host' => $host, 'port' => (int) substr($address, $colon + 1)];
            $instance = ['group' => $it['group'] ?? '', 'endpoints' => [['name' => 'admin', 'port' => 1] + $endpoint, $endpoint]];
            $instance += array_intersect_key($it, ['weight' => 0, 'metadata' => 0, 'provenance' => 0]);
            $entries["instance/$service\0001.0.0\0$number"] = json_encode($instance);
        }
        $file->write($entries);
        return $file;
    }

    private static function chunk(array $instances): string
    {
        return self::packed(array_map(static fn (array $it) => Picks::hash($it['address']), $instances), array_column($instances, 'weight'));
    }

    /**
     * @param list<int> $hashes
     * @param list<int> $weights
     */
    private static function packed(array $hashes, array $weights): string
    {
        $last = array_map(static fn (int $hash) => str_split(substr(pack('J', $hash), 4)), $hashes);
        $bytes = array_map(static fn (int $byte) => implode(array_column($last, $byte)), range(0, 3));
        return pack('J*', ...$hashes) . pack('N*', ...$weights) . implode($bytes);
    }

    private static function vectorsOf(string $what): array
    {
        return json_decode(file_get_contents(self::VECTORS), true, flags: JSON_THROW_ON_ERROR)[$what];
    }
}
