<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Exception\InvalidRequest;
use Roster\Exception\TransportFailed;
use Roster\Freshness;
use Roster\Node;
use Roster\Origin;
use Roster\Read\Answer;
use Roster\Stat;
use Roster\Transport;
use Roster\Wire\ManyNodes;

/** However many nodes are asked for, they are of one revision. */
final class ManyNodesTest extends TestCase
{
    /** @var array<int, array<string, string>> what a sidecar had, by revision */
    private array $past = [];
    /** @var array<string, int> since when a path is as it is now */
    private array $changed = [];
    /** @var list<int> how many paths were asked for at once */
    private array $asked = [];

    protected function setUp(): void
    {
        $paths = array_map(static fn (int $number) => "/$number", range(0, 3_499));
        $this->past = [1 => array_fill_keys($paths, 'old')];
        $this->changed = array_fill_keys($paths, 1);
    }

    public function testASmallRequestIsAskedOnce(): void
    {
        self::assertSame(['/1', '/2'], array_keys(ManyNodes::read(['/1', '/2', '/none'], $this->ask())->value));
        self::assertSame([], ManyNodes::read([], $this->ask())->value);
        self::assertSame([3, 0], $this->asked);
    }

    public function testWhereNothingChangesManyAreAskedForOnce(): void
    {
        $this->assertOfOneRevision($this->paths(), $this->ask());
        self::assertSame([1_000, 1_000, 1_000, 500], $this->asked);
        $this->asked = [];
        $long = array_map(static fn (int $number) => '/' . str_repeat('x', 9_999) . $number, range(0, 9));
        self::assertSame([], ManyNodes::read($long, $this->ask())->value);
        self::assertSame([4, 4, 2], $this->asked);
    }

    public function testWhateverChangesMeanwhileTheAnswerIsOfOneRevision(): void
    {
        for ($trial = 0; $trial < 100; $trial++) {
            $this->setUp();
            // Most of what changes is not asked for.
            $change = fn () => $this->change('/' . random_int(0, 24_999));
            $this->assertOfOneRevision($this->paths(), $this->ask($change));
        }
    }

    public function testWhatChangesAllTheTimeIsNotReadForEver(): void
    {
        $this->expectException(TransportFailed::class);
        $this->expectExceptionMessage('it changes faster');
        ManyNodes::read($this->paths(), $this->ask(function (): void {
            array_map($this->change(...), ['/0', '/3000']);
        }));
    }

    /** @dataProvider refusals */
    public function testWhatIsTooMuchIsAskedForInHalves(\Exception $refusal): void
    {
        $ask = $this->ask();
        $refusing = static fn (array $paths, ?int $since) => count($paths) > 300 ? throw $refusal : $ask($paths, $since);
        $this->assertOfOneRevision($this->paths(), $refusing);
        $this->expectExceptionObject($refusal);
        ManyNodes::read(['/0'], static fn () => throw $refusal);
    }

    public static function refusals(): array
    {
        return [
            [new InvalidRequest('paths', 'more than a reply may hold; ask for fewer')],
            [new TransportFailed('refused: the message is longer than max_request allows')],
        ];
    }

    /** @param list<string> $paths */
    private function assertOfOneRevision(array $paths, \Closure $ask): void
    {
        $answer = ManyNodes::read($paths, $ask);
        $data = array_map(static fn (Node $node) => $node->data, $answer->value);
        self::assertSame($this->past[$answer->freshness->revision], $data);
        foreach ($answer->value as $node) {
            self::assertSame($answer->freshness->revision, $node->freshness->revision);
        }
    }

    /** @return list<string> */
    private function paths(): array
    {
        return array_keys($this->past[1]);
    }

    private function change(string $path): void
    {
        $now = array_key_last($this->past);
        $this->past[$now + 1] = $this->past[$now];
        if (isset($this->changed[$path])) {
            $this->past[$now + 1][$path] = 'changed at ' . $now + 1;
            $this->changed[$path] = $now + 1;
        }
    }

    /** A sidecar, in which something happens before each answer. */
    private function ask(?\Closure $meanwhile = null): \Closure
    {
        return function (array $paths, ?int $since) use ($meanwhile): Answer {
            $this->asked[] = count($paths);
            if ($meanwhile !== null) {
                $meanwhile();
            }
            $now = array_key_last($this->past);
            $freshness = new Freshness($now, 0, Origin::Live, true, Transport::Unix);
            $newest = max([0, ...array_intersect_key($this->changed, array_flip($paths))]);
            if ($since !== null && $newest <= $since) {
                return new Answer(null, $freshness);
            }
            $stat = new Stat(0, 0, 0, 0, 0, 0, 0, 0);
            $nodes = [];
            foreach (array_intersect_key($this->past[$now], array_flip($paths)) as $path => $data) {
                $nodes[$path] = new Node($path, $data, $stat, $freshness);
            }
            return new Answer($nodes, $freshness);
        };
    }
}
